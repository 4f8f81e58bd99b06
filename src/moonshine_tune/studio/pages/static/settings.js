// The project's settings: model, speaker, session, originals.

import { request } from "./api.js";
import { button, count, duration, h, noticeError, put } from "./dom.js";
import { project, setProject } from "./state.js";

/** Opens the dialog; what it saves counts for recordings from then on. */
export function openSettings(dialog) {
  const { folder, model, models = [], speaker, session, keep_original: keepsOriginal, counts, machine = {} } = project();
  const names = models.map((item) => item.name ?? item);
  const modelBox = h("select", { name: "model" }, (names.includes(model) ? names : [model, ...names]).map((name) => h("option", { value: name, selected: name === model }, name)));
  const form = h("form", { method: "dialog" },
    h("h2", { id: "settings-title" }, "Project"),
    h("p", { class: "quiet folder" }, folder),
    h("p", { class: "quiet" }, `${count(counts.accepted, "recording")}, ${duration(counts.accepted_s ?? 0)} · ${machine.device ?? ""}${machine.memory_gib ? `, ${machine.memory_gib.toFixed(0)} GiB` : ""}`),
    h("label", {}, h("span", { class: "form-name" }, "Model"), modelBox),
    h("label", {}, h("span", { class: "form-name" }, "Speaker"), h("input", { name: "speaker", value: speaker ?? "", autocomplete: "off", dir: "auto" }),
      h("span", { class: "note" }, "Who speaks. Splits keep the recordings of a person together.")),
    h("label", {}, h("span", { class: "form-name" }, "Session"), h("input", { name: "session", value: session ?? "", autocomplete: "off", dir: "auto" }),
      h("span", { class: "note" }, "Change it when the room or the microphone changes, or on another day.")),
    h("label", { class: "check" }, h("input", { type: "checkbox", name: "keep_original", checked: Boolean(keepsOriginal) }), " Also keep each recording as the microphone gave it"),
    h("div", { class: "row" }, h("button", { type: "submit", class: "primary" }, "Save"), button("Cancel", () => dialog.close())));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const values = new FormData(form);
    try {
      const changed = { model: values.get("model"), speaker: values.get("speaker").trim(), session: values.get("session").trim(), keep_original: values.has("keep_original") };
      setProject(await request("PATCH", "/api/project", changed));
      dialog.close();
    } catch (error) {
      dialog.close();
      noticeError("settings", error);
    }
  });
  put(dialog, form);
  dialog.showModal();
}
