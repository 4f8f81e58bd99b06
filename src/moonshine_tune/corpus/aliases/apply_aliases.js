// Map what a recognizer writes in place of listed terms back to the terms.
// The rules are those of apply_aliases.py; alias_vectors.json has results to test with.
//
//   const { aliases } = JSON.parse(fs.readFileSync("aliases.json", "utf8"));
//   applyAliases("Is a craiffish's shell hard?", aliases);

const WORD = /[\p{L}\p{M}\p{N}](?:[^\s\-‐‑–—]*[\p{L}\p{M}\p{N}])?/gu;
const GAP = /^[\s\-‐‑–—]+$/u;
const SENTENCE_END = /[.!?…。！？]/u;

export function applyAliases(text, aliases) {
  const table = new Map(Object.entries(aliases));
  const most = Math.max(0, ...Object.keys(aliases).map((alias) => alias.split(" ").length));
  const words = [...text.matchAll(WORD)].map((match) => ({
    start: match.index,
    end: match.index + match[0].length,
    key: match[0].toLowerCase(),
  }));
  let result = "";
  let position = 0;
  for (let index = 0; index < words.length; ) {
    let count = Math.min(most, words.length - index);
    let replacement = null;
    for (; count > 0 && !replacement; count--) {
      replacement = match(text, words.slice(index, index + count), table);
      if (replacement) break;
    }
    if (!replacement) {
      index += 1;
      continue;
    }
    const before = index ? text.slice(words[index - 1].end, words[index].start) : ".";
    let term = replacement.term;
    if (term === term.toLowerCase() && SENTENCE_END.test(before)) {
      const first = String.fromCodePoint(term.codePointAt(0));
      term = first.toUpperCase() + term.slice(first.length);
    }
    result += text.slice(position, words[index].start) + term;
    position = replacement.end;
    index += count;
  }
  return result + text.slice(position);
}

function match(text, words, table) {
  for (let index = 1; index < words.length; index++) {
    if (!GAP.test(text.slice(words[index - 1].end, words[index].start))) return null;
  }
  const alias = words.map((word) => word.key).join(" ");
  for (const shorter of [alias, alias.replace(/['’]s$/u, "")]) {
    if (table.has(shorter)) {
      return { end: words.at(-1).end - (alias.length - shorter.length), term: table.get(shorter) };
    }
  }
  return null;
}
