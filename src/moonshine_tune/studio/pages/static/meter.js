// The level of the microphone, as a line of bars that moves with the last seconds.

import { h, s } from "./dom.js";

const BARS = 64;
const QUIETEST = -60;

export class Meter {
  constructor() {
    this.levels = new Array(BARS).fill(QUIETEST);
    this.bars = this.levels.map((_, index) => s("rect", { x: index * 5, width: 3, rx: 1.5, y: 23, height: 2 }));
    this.drawing = s("svg", { class: "meter", viewBox: `0 0 ${BARS * 5 - 2} 48`, preserveAspectRatio: "none", "aria-hidden": "true" }, this.bars);
    this.words = h("p", { class: "meter-words" });
    this.element = h("div", { class: "meter-box" }, this.drawing, this.words);
    this.loudest = QUIETEST;
    this.drawn = 0;
  }

  show(level, threshold, isSpeech) {
    this.loudest = Math.max(this.loudest, level);
    const now = performance.now();
    if (now - this.drawn < 45) return;
    this.drawn = now;
    this.levels.push(this.loudest);
    this.levels.shift();
    this.element.dataset.level = this.loudest.toFixed(1);
    this.element.dataset.speech = String(isSpeech);
    this.loudest = QUIETEST;
    this.bars.forEach((bar, index) => {
      const part = Math.max(0, Math.min(1, (this.levels[index] - QUIETEST) / -QUIETEST));
      const height = Math.max(2, part * 46);
      bar.setAttribute("y", 24 - height / 2);
      bar.setAttribute("height", height);
      bar.classList.toggle("hot", this.levels[index] > -3);
    });
    const peak = Math.max(...this.levels.slice(-20));
    this.words.textContent = peak > -3 ? "Too loud: move back a little" : "";
  }

  rest() {
    this.words.textContent = "";
  }
}
