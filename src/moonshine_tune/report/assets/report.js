"use strict";
(() => {
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];

  // Pages opened from a disk may have no storage at all: the choice then lasts as long as the page.
  const stored = (value) => {
    try {
      if (value === undefined) return localStorage.getItem("moonshine-tune-theme");
      localStorage.setItem("moonshine-tune-theme", value);
    } catch { /* no storage here */ }
    return null;
  };

  function theme() {
    const chosen = stored();
    if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;
    const button = document.querySelector(".theme");
    button.hidden = false;
    button.addEventListener("click", () => {
      const now = root.dataset.theme
        || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
      root.dataset.theme = now === "dark" ? "light" : "dark";
      stored(root.dataset.theme);
    });
  }

  function sortValue(row, column) {
    const cell = row.cells[column];
    if (cell.dataset.sort === undefined) return cell.textContent.trim();
    const value = Number(cell.dataset.sort);
    return Number.isNaN(value) ? -Infinity : value;
  }

  function sortBy(button) {
    const header = button.closest("th");
    const body = header.closest("table").tBodies[0];
    const column = header.cellIndex;
    // Numbers start with the highest, names with A.
    const first = header.classList.contains("number") ? "descending" : "ascending";
    const other = first === "ascending" ? "descending" : "ascending";
    const order = header.ariaSort === first ? other : first;
    const sign = order === "ascending" ? 1 : -1;
    const rows = [...body.rows].map((row) => [sortValue(row, column), row]);
    rows.sort(([a], [b]) => sign * (typeof a === "number" && typeof b === "number"
      ? (a === b ? 0 : a < b ? -1 : 1)
      : String(a).localeCompare(String(b), "en", { numeric: true })));
    all("th[aria-sort]", header.parentElement).forEach((item) => { item.ariaSort = "none"; });
    header.ariaSort = order;
    body.append(...rows.map(([, row]) => row));
  }

  const format = (value) => {
    const size = Math.abs(value);
    if (size >= 1000) return Math.round(value).toLocaleString("en");
    return size !== 0 && size < 0.001 ? value.toExponential(1) : String(Number(value.toPrecision(3)));
  };

  function chart(svg) {
    const series = JSON.parse(svg.dataset.points).filter(([, points]) => points.length);
    const readout = svg.closest("figure").querySelector(".readout");
    if (!series.length) return;
    const steps = [...new Map(series.flatMap(([, points]) => points.map((p) => [p[0], p[2]])))]
      .sort((a, b) => a[0] - b[0]);
    let at = steps.length - 1;
    let marks = [];

    const add = (name, attributes) => {
      const element = document.createElementNS("http://www.w3.org/2000/svg", name);
      Object.entries(attributes).forEach(([key, value]) => element.setAttribute(key, value));
      svg.append(element);
      marks.push(element);
    };
    const clear = () => { marks.forEach((mark) => mark.remove()); marks = []; };
    const show = (drawn) => {
      const [x, left] = steps[at];
      clear();
      if (drawn) add("line", { class: "cross", x1: left, x2: left, y1: svg.dataset.top, y2: svg.dataset.bottom });
      const values = series.flatMap(([name, points]) => {
        const point = points.find((p) => p[0] === x);
        if (!point) return [];
        if (drawn) add("circle", { class: "point", cx: point[2], cy: point[3], r: 3.6 });
        return [series.length > 1 ? `${name} ${format(point[1])}` : format(point[1])];
      });
      readout.textContent = `${svg.dataset.xName} ${x}: ${values.join(", ")}`;
    };
    const rest = () => { at = steps.length - 1; show(false); };

    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const left = (event.clientX - box.left) * svg.viewBox.baseVal.width / box.width;
      at = steps.reduce((best, step, index) =>
        Math.abs(step[1] - left) < Math.abs(steps[best][1] - left) ? index : best, 0);
      show(true);
    });
    svg.addEventListener("pointerleave", rest);
    svg.addEventListener("blur", rest);
    svg.addEventListener("focus", () => { if (svg.matches(":focus-visible")) show(true); });
    svg.addEventListener("keydown", (event) => {
      const last = steps.length - 1;
      const moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: last,
        PageUp: at + Math.ceil(last / 10), PageDown: at - Math.ceil(last / 10) };
      if (!(event.key in moves)) return;
      event.preventDefault();
      at = Math.min(Math.max(moves[event.key], 0), last);
      show(true);
    });
    rest();
  }

  function filter(set) {
    const field = set.querySelector(".filter");
    if (!field) return;
    field.hidden = false;
    field.addEventListener("change", (event) => {
      const wanted = event.target.value;
      all(".card", set).forEach((card) => {
        card.hidden = wanted !== "" && !card.dataset.tags.split(" ").includes(wanted);
        if (card.hidden) all("audio", card).forEach((player) => player.pause());
      });
    });
  }

  function copying(button) {
    const text = button.parentElement.querySelector("code").textContent;
    if (!navigator.clipboard) return;
    button.hidden = false;
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(text);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Not allowed";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 1600);
    });
  }

  function sections() {
    const links = new Map(all(".bar li a").map((link) => [link.hash.slice(1), link]));
    const list = document.querySelector(".bar ul");
    const watcher = new IntersectionObserver((entries) => {
      entries.forEach(({ target, isIntersecting }) => {
        const link = links.get(target.id);
        if (!isIntersecting) {
          link.removeAttribute("aria-current");
          return;
        }
        link.setAttribute("aria-current", "true");
        // On a phone the list is wider than the screen.
        list.scrollTo({ left: link.offsetLeft - list.offsetLeft - 40 });
      });
    }, { rootMargin: "-20% 0px -79% 0px" });
    links.forEach((_, id) => { watcher.observe(document.getElementById(id)); });
  }

  theme();
  all("button.sort").forEach((button) => button.addEventListener("click", () => sortBy(button)));
  all("svg.chart[data-points]").forEach(chart);
  all("[data-set]").forEach(filter);
  all("button.copy").forEach(copying);
  // One recording at a time.
  document.addEventListener("play", (event) => {
    all("audio").forEach((player) => { if (player !== event.target) player.pause(); });
  }, true);
  sections();
  root.dataset.ready = "true";
})();
