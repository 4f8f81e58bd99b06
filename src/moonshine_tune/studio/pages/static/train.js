// Train: what fits this machine and data, one button, and what happens while it runs.

import { follow, get, post } from "./api.js";
import { announce, button, closeNotice, count, duration, h, noticeError, put } from "./dom.js";
import { chart } from "./curves.js";
import { scoreOf } from "./scores.js";
import { project, refreshProject } from "./state.js";

const RUNNING = ["running", "paused", "queued"];
// Fewer clips than these leave nothing to measure with.
const FEW = 10;

class TrainView {
  constructor(root) {
    this.root = root;
    this.plan = h("section", { class: "plan card-like", "aria-label": "The plan" });
    this.job = h("section", { class: "job card-like", hidden: true, "aria-label": "The training" });
    this.live = h("div", { class: "live-view" });
    this.runs = h("section", { class: "runs" });
    put(root, h("div", { class: "view-head" }, h("h1", {}, "Train"), h("p", { class: "effort", id: "train-data" })), this.plan, this.job, this.live, this.runs);
  }

  close() {
    this.isClosed = true;
    clearTimeout(this.soon);
  }

  async load() {
    await refreshProject();
    const { accepted, accepted_s: seconds } = project().counts;
    put(this.root.querySelector("#train-data"), accepted ? [h("strong", {}, count(accepted, "recording")), h("span", { class: "quiet" }, ` ${duration(seconds)} accepted`)] : []);
    const jobs = (await get("/api/jobs")).jobs ?? [];
    const training = jobs.find((job) => ["train", "resume"].includes(job.kind) && RUNNING.includes(job.state));
    await this.showRuns();
    // Both go on for as long as their job does; the view is there before.
    if (training) this.watch(training);
    else this.showPlan();
  }

  // --- the plan

  async showPlan() {
    const { accepted } = project().counts;
    this.plan.hidden = false;
    if (!accepted) {
      put(this.plan, h("div", { class: "nothing" }, h("h2", {}, "Nothing to train on yet"),
        h("p", { class: "quiet" }, "Record sentences, or drop recordings and accept their words. Fifty short ones already change something; two hundred are good."),
        h("p", { class: "row center" }, h("a", { class: "button primary", href: "#/record" }, "Record"), h("a", { class: "button", href: "#/label" }, "Label"))));
      return;
    }
    put(this.plan, h("p", { class: "quiet busy" }, "Looking at your recordings and this machine…"));
    try {
      const { job } = await post("/api/jobs", { kind: "plan_training" });
      const { result } = await follow(job, (state) => {
        if (state.progress?.text) put(this.plan, h("p", { class: "quiet busy" }, `Looking at your recordings and this machine: ${state.progress.text}…`));
      });
      this.drawPlan(result);
    } catch (error) {
      put(this.plan, this.problem(error), h("p", { class: "row" }, button("Look again", () => this.showPlan())));
    }
  }

  drawPlan(result) {
    const { preset, reason, estimate = {}, data = {} } = result;
    const figures = [
      ["Preset", preset, ""],
      ["Time", duration(estimate.time_s), estimate.time_s ? "as the last training took" : "known after the first training"],
      ["Memory", estimate.memory_gib ? `${estimate.memory_gib.toFixed(1)} GiB` : "–", project().machine?.memory_gib ? `of ${project().machine.memory_gib.toFixed(0)} GiB` : ""],
      ["Recordings", String(data.train ?? 0), `to learn from; ${data.dev ?? 0} to steer by, ${data.test ?? 0} kept to measure with`],
    ];
    put(this.plan,
      h("dl", { class: "tiles" }, figures.map(([name, figure, detail]) => h("div", { class: "tile" }, h("dt", {}, name), h("dd", {}, h("p", { class: "figure" }, figure), h("p", { class: "detail" }, detail ?? ""))))),
      reason ? h("p", { class: estimate.fits === false ? "finding" : "note" }, reason.charAt(0).toUpperCase() + reason.slice(1), ".") : null,
      (data.train ?? 0) < FEW ? h("p", { class: "finding" }, `${count(data.train ?? 0, "recording")} to learn from is very little: it shows that everything works, and little more.`) : null,
      h("div", { class: "row" }, button("Start training", (event) => this.start(event.currentTarget), { class: "primary", id: "start" }),
        h("p", { class: "note" }, "It stops early when it no longer gets better. You can pause it, and close this page.")),
      result.command ? h("details", {}, h("summary", {}, "As a command"), h("pre", {}, h("code", {}, result.command))) : null);
  }

  async start(control) {
    control.disabled = true;
    try {
      const { job } = await post("/api/jobs", { kind: "train" });
      await this.watch(job);
    } catch (error) {
      control.disabled = false;
      noticeError("train", error);
    }
  }

  // --- while it runs

  async watch(job) {
    closeNotice("train");
    this.plan.hidden = true;
    this.job.hidden = false;
    this.isWatched = true;
    this.drawJob(job);
    this.refreshRun(job);
    try {
      const ended = await follow(job, (state) => { this.drawJob(state); this.refreshRun(state); });
      await this.ended(ended);
    } catch (error) {
      await this.failed(job, error);
    }
  }

  drawJob(job) {
    const { progress = {}, state } = job;
    const part = progress.total ? Math.min(1, progress.done / progress.total) : 0;
    const words = { paused: "Paused", stopped: "Stopped", done: "Done", failed: "Ended by an error" }[state] ?? "Training";
    if (this.drawnState !== state) {
      this.drawnState = state;
      this.bar = h("progress", { max: 1, "aria-label": "Progress" });
      this.facts = h("p", { class: "job-facts" });
      const act = (what) => async (event) => {
        event.currentTarget.disabled = true;
        await post(`/api/jobs/${encodeURIComponent(job.id)}/${what}`).then((answer) => answer?.job && this.drawJob(answer.job)).catch((error) => noticeError("train", error));
      };
      put(this.job, h("div", { class: "job-head" }, h("h2", {}, words), h("p", { class: "quiet" }, job.run ? `run ${job.run}` : "")), this.bar, this.facts,
        RUNNING.includes(state) ? h("p", { class: "row" },
          state === "paused" ? button("Resume", act("resume"), { class: "primary", id: "resume" }) : button("Pause", act("pause"), { id: "pause" }),
          button("Stop, and keep the best so far", act("stop"), { id: "stop" })) : null);
      announce(words);
    }
    // Without a count it moves by itself.
    if (progress.total) this.bar.value = part;
    else this.bar.removeAttribute("value");
    put(this.facts, progress.text ? capitalized(progress.text) : "", progress.total ? `: ${progress.done.toLocaleString("en")} of ${progress.total.toLocaleString("en")}` : "",
      progress.eta_s ? h("span", { class: "quiet" }, ` · about ${duration(progress.eta_s)} left`) : null,
      progress.message ? h("span", { class: "quiet" }, ` · ${progress.message}`) : null);
  }

  refreshRun(job) {
    if (!job.run || this.isClosed) return;
    this.run = job.run;
    // Events come many times a second; the run is read at most once in 1.5 s.
    if (this.soon) return;
    const wait = Math.max(0, 1500 - (performance.now() - (this.readAt ?? -1500)));
    this.soon = setTimeout(async () => {
      this.soon = undefined;
      this.readAt = performance.now();
      await this.showRun().catch(() => { /* the folder is not there before the first step */ });
    }, wait);
  }

  async showRun() {
    const run = await get(`/api/runs/${encodeURIComponent(this.run)}`);
    if (this.isClosed) return;
    const points = (name) => run.curve.filter((point) => point[name] !== undefined && point[name] !== null).map((point) => [point.step, point[name]]);
    const end = run.of_steps ?? 0;
    const wrong = [{ name: "your recordings", kind: "first", points: points("dev_wer"), dots: true }, { name: "general speech", kind: "second", points: points("canary_wer"), dots: true }];
    put(this.live, h("div", { class: "charts" },
      chart({ title: "Words that are wrong", unit: "%", xName: "step", series: wrong, end }),
      chart({ title: "Loss", xName: "step", series: [{ name: "loss", kind: "first", points: points("loss") }], end })),
    this.transcripts(run));
  }

  transcripts({ transcripts = [] }) {
    if (!transcripts.length) return null;
    return h("section", { class: "improving" }, h("h2", {}, "What it understands now"),
      h("ul", { class: "improving-list" }, transcripts.slice(0, 6).map(({ reference, base, adapted, steps = [] }) => {
        const now = steps.at(-1)?.text ?? adapted;
        const first = base ?? steps[0]?.text;
        return h("li", {},
          h("p", { class: "spoken", dir: "auto" }, reference),
          h("dl", {}, h("div", {}, h("dt", {}, "before"), h("dd", { dir: "auto" }, first || "–")),
            h("div", {}, h("dt", {}, steps.length ? `step ${steps.at(-1).step}` : "now"), h("dd", { class: now && same(now, reference) ? "better" : null, dir: "auto" }, now || "–"))));
      })));
  }

  // --- its end

  async ended(job) {
    await refreshProject();
    const isStopped = job.state === "stopped";
    put(this.job, h("div", { class: "job-head" }, h("h2", {}, isStopped ? "Stopped" : "The training is done"), h("p", { class: "quiet" }, job.run ? `run ${job.run}` : "")),
      h("p", {}, job.result?.verdict || (isStopped ? "The best state so far is kept." : "")),
      h("p", { class: "row" }, h("a", { class: "button primary", href: `#/results/${encodeURIComponent(job.run ?? "")}`, id: "see-results" }, "See what it learned"),
        button("Train again", () => { this.job.hidden = true; this.showPlan(); })));
    announce(isStopped ? "The training is stopped." : "The training is done.");
    this.drawnState = undefined;
    await this.showRun().catch(() => {});
    await this.showRuns();
  }

  async failed(job, error) {
    // Before its first step there is nothing to go on from.
    const hasBegun = (await get("/api/runs").catch(() => [])).some(({ name }) => name === job.run);
    put(this.job, h("div", { class: "job-head" }, h("h2", {}, "The training ended by an error")), this.problem(error),
      h("p", { class: "row" }, hasBegun ? button("Go on from the last saved step", () => this.resume(job.run), { class: "primary", id: "go-on" }) : null,
        button("Plan again", () => { this.job.hidden = true; this.live.replaceChildren(); this.showPlan(); })));
    this.drawnState = undefined;
  }

  async resume(run) {
    try {
      const { job } = await post("/api/jobs", { kind: "resume", run });
      await this.watch(job);
    } catch (error) {
      noticeError("train", error);
    }
  }

  problem(error) {
    return h("div", { class: "problem", role: "alert" }, h("p", {}, error.message), error.next ? h("p", { class: "what-next" }, error.next) : null);
  }

  async showRuns() {
    const runs = await get("/api/runs");
    this.runs.hidden = runs.length === 0;
    put(this.runs, h("h2", {}, "Earlier runs"), h("ul", { class: "run-list" }, runs.map(({ name, state, scores = {} }) => h("li", {},
      h("a", { href: `#/results/${encodeURIComponent(name)}` }, name), h("span", { class: "quiet" }, state ?? ""),
      h("span", { class: "number" }, scoreText(scoreOf(scores, "test") ?? scoreOf(scores, "dev"))),
      ["stopped", "interrupted", "failed"].includes(state) ? button("Go on", () => this.resume(name), { class: "small" }) : null))));
  }
}

const capitalized = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const plain = (text) => text.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, " ").trim();
const same = (a, b) => plain(a) === plain(b);

/** "48.2 → 12.0 % wrong", "12 % wrong", or nothing. */
function scoreText(score) {
  if (!score) return "";
  const { base, adapted } = score;
  return base === null ? `${adapted.toFixed(1)} % wrong` : `${base.toFixed(1)} → ${adapted.toFixed(1)} % wrong`;
}

export async function openTrain(root) {
  const view = new TrainView(root);
  const shown = view.load().catch((error) => noticeError("load", error));
  return { close: () => view.close(), shown, onEvent: () => {} };
}
