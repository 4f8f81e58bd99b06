// How a person spells, learned from what they accepted, so that it is typed once and not every time.
//
// A model writes "M-c-k, 1 2." where a person wants "M C K one two". Each way to spell is a few
// independent choices. The choices that turn the transcripts of the accepted clips into their texts
// with the fewest edits are applied to the next transcript. Without evidence nothing changes.

const CHOICES = {
  letters: ["keep", "apart", "apart small", "together"],
  digits: ["keep", "words", "words with oh"],
  marks: ["keep", "no final mark", "no marks"],
  capitals: ["keep", "first letter", "first letter only", "none", "all"],
};
const NAMES = {
  "letters:apart": "letters apart, in capitals",
  "letters:apart small": "letters apart",
  "letters:together": "letters together",
  "digits:words": "digits as words",
  "digits:words with oh": "digits as words",
  "marks:no final mark": "no mark at the end",
  "marks:no marks": "no punctuation",
  "capitals:first letter": "a capital at the start",
  "capitals:first letter only": "one capital, at the start",
  "capitals:none": "no capitals",
  "capitals:all": "all capitals",
};
const KEEP = Object.fromEntries(Object.keys(CHOICES).map((name) => [name, "keep"]));
const DIGITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"];
// Letters or digits one by one, with what models write between them.
const SPELLED = /(?<![\p{L}\p{N}'’])[\p{L}\p{N}](?:[\s.,\-–]+[\p{L}\p{N}](?![\p{L}\p{N}'’]))+[.,]*/gu;
const NUMBER = /(?<![\p{L}\p{N}.])\d+(?:[\s-]\d+)*(?![\p{L}\p{N}]|[.,]\d)/gu;
const MARKS = /[.,!?;:…"“”«»¿¡]+/gu;

// More pairs than these change nothing, and the search is done after every clip.
const MOST_PAIRS = 30;
// A correction of a word is repeated after two times without an exception.
const MIN_TIMES = 2;
// A transcript that is mostly wrong does not show how its words are spelled.
const MOST_WRONG = 0.5;

function letters(text, choice) {
  if (choice === "keep") return text;
  return text.replace(SPELLED, (run) => {
    const units = run.match(/[\p{L}\p{N}]/gu);
    if (units.filter((unit) => /\p{L}/u.test(unit)).length < 2) return run;
    if (choice === "together") return units.join("").toUpperCase();
    return (choice === "apart" ? units.map((unit) => unit.toUpperCase()) : units.map((unit) => unit.toLowerCase())).join(" ");
  });
}

function digits(text, choice) {
  if (choice === "keep") return text;
  const zero = choice === "words with oh" ? "oh" : "zero";
  return text.replace(NUMBER, (number) => number.match(/\d/g).map((digit) => (digit === "0" ? zero : DIGITS[digit])).join(" "));
}

function marks(text, choice) {
  if (choice === "no final mark") return text.replace(/[\s.,!?;:…]+$/u, "");
  return choice === "no marks" ? text.replace(MARKS, " ").replace(/\s+/gu, " ").trim() : text;
}

function capitals(text, choice) {
  if (choice === "none") return text.toLowerCase();
  if (choice === "all") return text.toUpperCase();
  if (choice === "first letter only") return capitals(text.toLowerCase(), "first letter");
  return choice === "first letter" ? text.replace(/\p{L}/u, (letter) => letter.toUpperCase()) : text;
}

/** A transcript spelled by such choices. */
export function respell(transcript, style) {
  const text = marks(digits(letters(transcript, style.letters), style.digits), style.marks);
  // Spelled letters are capitals for another reason than the start of a sentence.
  const cased = capitals(text, style.capitals);
  return ["none", "first letter only"].includes(style.capitals) ? letters(cased, style.letters) : cased;
}

/** The fewest insertions, deletions and replacements of characters between two texts. */
export function distance(a, b) {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i += 1) {
    const next = [i];
    for (let j = 1; j <= b.length; j += 1) {
      next.push(Math.min(row[j] + 1, next[j - 1] + 1, row[j - 1] + (a[i - 1] === b[j - 1] ? 0 : 1)));
    }
    row = next;
  }
  return row[b.length];
}

const bare = (text) => text.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "");

/** Whether a transcript has about the words of the text, however they are spelled. */
function isAlike([transcript, text]) {
  const wanted = bare(text);
  return CHOICES.digits.some((choice) => distance(bare(digits(transcript, choice)), wanted) <= MOST_WRONG * wanted.length);
}

const cost = (pairs, style) => pairs.reduce((sum, [transcript, text]) => sum + distance(respell(transcript, style), text), 0);

/** Words that were replaced by the same word each time: `[from, to]`. */
function replacements(pairs, style) {
  const times = new Map();
  for (const [transcript, text] of pairs) {
    const from = respell(transcript, style).split(/\s+/u);
    const to = text.split(/\s+/u);
    if (from.length !== to.length) continue;
    from.forEach((word, index) => {
      const known = times.get(word) ?? new Map();
      times.set(word, known.set(to[index], (known.get(to[index]) ?? 0) + 1));
    });
  }
  return [...times].flatMap(([word, forms]) => {
    const [[form, number]] = forms;
    return forms.size === 1 && form !== word && word.length > 1 && number >= MIN_TIMES ? [[word, form]] : [];
  });
}

/** The spelling of accepted clips: `apply(transcript)`, and its `reasons` in words. */
export class Spelling {
  /** @param pairs transcripts and accepted texts, the newest first */
  constructor(pairs) {
    const used = pairs.filter((pair) => pair[0] && pair[1] && isAlike(pair)).slice(0, MOST_PAIRS);
    this.style = { ...KEEP };
    // One choice after the other, until no change of one helps; each must pay for itself.
    for (let improves = used.length > 0; improves;) {
      improves = false;
      for (const [name, values] of Object.entries(CHOICES)) {
        for (const value of values) {
          const style = { ...this.style, [name]: value };
          if (cost(used, style) + (value === "keep" ? 0 : 0.5) < cost(used, this.style) + (this.style[name] === "keep" ? 0 : 0.5)) {
            this.style = style;
            improves = true;
          }
        }
      }
    }
    this.words = new Map(replacements(used, this.style));
  }

  apply(transcript) {
    const text = respell(transcript, this.style);
    return this.words.size ? text.replace(/\S+/gu, (word) => this.words.get(word) ?? word) : text;
  }

  /** Why a transcript is proposed in another form; empty where it is not. */
  reasons(transcript) {
    const reasons = Object.entries(this.style)
      .filter(([name, value]) => value !== "keep" && respell(transcript, { ...this.style, [name]: "keep" }) !== respell(transcript, this.style))
      .map(([name, value]) => NAMES[`${name}:${value}`]);
    const words = respell(transcript, this.style).split(/\s+/u);
    return [...new Set(reasons), ...words.filter((word) => this.words.has(word)).map((word) => `${word} → ${this.words.get(word)}`)];
  }
}
