// Where sentences to read come from: a pasted list, a text file, or what the studio proposes.

import { follow, post } from "./api.js";
import { closeNotice, count, h, notice, noticeError, put } from "./dom.js";

/** The three forms; `added` is called when there are new sentences. */
export function promptForms(added) {
  const done = async (answer, what) => {
    const number = answer?.added ?? answer?.prompts?.length;
    closeNotice("prompts");
    if (number === 0) notice("prompts", "plain", `No new sentence in ${what}: all are there already.`);
    else if (number) notice("prompts", "good", `${count(number, "sentence")} added.`);
    await added();
  };
  return [pasted(done), fromFile(done), proposed(done)];
}

function pasted(done) {
  const box = h("textarea", { rows: 4, placeholder: "One sentence a line", dir: "auto" });
  const send = async () => {
    if (!box.value.trim()) return box.focus();
    try {
      const answer = await post("/api/prompts", { source: "list", text: box.value });
      box.value = "";
      await done(answer, "the list");
    } catch (error) {
      noticeError("prompts", error);
    }
    return undefined;
  };
  return h("form", { class: "prompt-form", "data-form": "list", onsubmit: (event) => { event.preventDefault(); send(); } },
    h("label", {}, h("span", { class: "form-name" }, "Paste a list"), box),
    h("button", { type: "submit" }, "Add these"));
}

function fromFile(done) {
  const input = h("input", { type: "file", accept: ".txt,.md,.csv,text/plain", onchange: async () => {
    const [file] = input.files;
    if (!file) return;
    try {
      await done(await post("/api/prompts", { source: "list", text: await file.text() }), "the file");
    } catch (error) {
      noticeError("prompts", error);
    }
    input.value = "";
  } });
  return h("div", { class: "prompt-form", "data-form": "file" },
    h("label", {}, h("span", { class: "form-name" }, "Open a text file"), input),
    h("p", { class: "note" }, "One sentence a line. It stays on this machine."));
}

function proposed(done) {
  const terms = h("textarea", { rows: 2, placeholder: "Words that matter to you, one a line (optional)", dir: "auto" });
  const status = h("p", { class: "note" },
    "Sentences with words that you have not spoken yet, that the model gets wrong, and with sounds that are rare so far. Each says why.");
  const propose = async (event) => {
    event.preventDefault();
    try {
      submit.disabled = true;
      const answer = await post("/api/prompts", { source: "next", terms: terms.value });
      const state = answer.job ? await follow(answer.job, (job) => put(status, job.progress?.text ?? "Choosing sentences…")) : { result: answer };
      await done(state.result, "the proposal");
    } catch (error) {
      noticeError("prompts", error);
    } finally {
      submit.disabled = false;
    }
  };
  const submit = h("button", { type: "submit" }, "Propose sentences");
  return h("form", { class: "prompt-form", "data-form": "next", onsubmit: propose },
    h("label", {}, h("span", { class: "form-name" }, "Let the studio propose"), terms), status, submit);
}
