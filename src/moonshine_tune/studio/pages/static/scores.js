// Scores of a run: percent of the words that are wrong.

/** `{base, adapted}` of a set (test, dev, canary); undefined where it was not measured. */
export function scoreOf(scores, set) {
  const adapted = scores?.[set];
  return typeof adapted === "number" ? { base: scores[`base_${set}`] ?? null, adapted } : undefined;
}
