"use strict";
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);

  // Colours arrive as names of CSS variables, so that light, dark and print share one figure.
  const painted = (value) => {
    if (typeof value === "string") {
      const found = /^var\((--[\w-]+)\)$/.exec(value);
      return found ? getComputedStyle(root).getPropertyValue(found[1]).trim() : value;
    }
    if (Array.isArray(value)) return value.map(painted);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, painted(item)]));
    }
    return value;
  };

  const drawings = JSON.parse(byId("chart-data").textContent);
  const plots = [...document.querySelectorAll("[data-chart]")];
  const linked = plots.filter((plot) => drawings[plot.dataset.chart].linked);
  const isTouch = matchMedia("(pointer: coarse)").matches;
  const config = { displayModeBar: false, displaylogo: false, doubleClick: "reset", showTips: false };
  const fontFamily = getComputedStyle(document.body).fontFamily;

  const drawn = new Set();
  let shownSteps = null;  // the steps that all linked charts are zoomed to

  const draw = (plot) => {
    const { data, layout } = drawings[plot.dataset.chart];
    const look = {
      ...layout,
      font: { family: fontFamily, size: 12 },
      dragmode: isTouch ? false : "zoom",  // a finger that scrolls the page must not zoom a chart
      width: plot.clientWidth,
      height: plot.clientHeight,
    };
    Plotly.react(plot, painted(data), painted(look), config);
    const isLinked = linked.includes(plot);
    if (isLinked && shownSteps) zoom([plot]);  // afterwards: a double click goes back to the range drawn first
    if (isLinked && !drawn.has(plot)) link(plot);
    drawn.add(plot);
  };

  const redraw = () => drawn.forEach(draw);

  let isFollowing = false;
  const zoom = (some) => {
    isFollowing = true;
    Promise.all(some.map((plot) => Plotly.relayout(plot, { "xaxis.range": [...shownSteps] })))
      .finally(() => { isFollowing = false; });
  };

  const follow = (source, change) => {
    const range = change["xaxis.range"] ?? [change["xaxis.range[0]"], change["xaxis.range[1]"]];
    if (isFollowing || range[0] === undefined) return;
    shownSteps = [...range];
    zoom(linked.filter((plot) => plot !== source && drawn.has(plot)));
  };

  // A hover on one chart names the same step on the others that are in view.
  const hoverOthers = (source, step) => requestAnimationFrame(() => linked.forEach((plot) => {
    if (plot === source || !inView.has(plot)) return;
    if (step === null) Plotly.Fx.unhover(plot); else Plotly.Fx.hover(plot, { xval: step }, "xy");
  }));

  const link = (plot) => {
    plot.on("plotly_relayout", (change) => follow(plot, change));
    plot.on("plotly_hover", (event) => hoverOthers(plot, event.xvals?.[0] ?? event.points[0].x));
    plot.on("plotly_unhover", () => hoverOthers(plot, null));
    plot.on("plotly_click", (event) => {
      const links = event.points.map((point) => point.data.meta?.[point.pointIndex]);
      const found = links.find((mark) => typeof mark === "string" && mark.startsWith("#"));
      if (found) location.hash = found;
    });
  };

  // A chart is drawn when it comes near the view: a report has two dozen, and they would hold up its opening.
  const inView = new Set();
  const viewed = new IntersectionObserver((entries) => entries.forEach(({ isIntersecting, target }) => {
    if (!isIntersecting) { inView.delete(target); return; }
    inView.add(target);
    if (!drawn.has(target)) draw(target);
  }), { rootMargin: "400px 0px" });

  const startCharts = () => {
    plots.forEach((plot) => viewed.observe(plot));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
    let width = innerWidth;
    addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; redraw(); } });
    addEventListener("beforeprint", () => { root.classList.add("printing"); plots.forEach(draw); });
    addEventListener("afterprint", () => { root.classList.remove("printing"); redraw(); });
    byId("reset-zoom")?.addEventListener("click", () => {
      shownSteps = null;
      linked.filter((plot) => drawn.has(plot)).forEach((plot) => Plotly.relayout(plot, { "xaxis.range": [...drawings[plot.dataset.chart].layout.xaxis.range], "yaxis.autorange": true }));
    });
    byId("log-scale")?.addEventListener("click", (event) => {
      const isLog = event.currentTarget.getAttribute("aria-pressed") !== "true";
      event.currentTarget.setAttribute("aria-pressed", String(isLog));
      drawings.loss.layout.yaxis.type = isLog ? "log" : "linear";
      draw(byId("chart-loss"));
    });
  };

  const startRows = () => {
    const rows = [...document.querySelectorAll(".row")];
    if (!rows.length) return;
    let matching = rows;
    let at = 0;
    const show = () => {
      rows.forEach((row) => { row.hidden = row !== matching[at]; });
      byId("row-none").hidden = matching.length > 0;
      byId("row-previous").disabled = at === 0;
      byId("row-next").disabled = at >= matching.length - 1;
      byId("row-position").textContent = `${matching.length ? at + 1 : 0} of ${matching.length}`;
    };
    const go = (by) => { at = Math.max(0, Math.min(matching.length - 1, at + by)); show(); };
    byId("row-previous").addEventListener("click", () => go(-1));
    byId("row-next").addEventListener("click", () => go(1));
    const search = byId("row-search");
    const filter = byId("row-filter");
    const find = () => {
      const wanted = search.value.toLowerCase();
      const kind = filter?.value ?? "";
      const isKind = (row) => !kind || row.dataset.kinds.split(" ").includes(kind);
      matching = rows.filter((row) => isKind(row) && row.textContent.toLowerCase().includes(wanted));
      at = 0;
      show();
    };
    search.addEventListener("input", find);
    filter?.addEventListener("change", find);
    document.querySelectorAll("a[data-kind]").forEach((link) => {
      link.addEventListener("click", () => { search.value = ""; filter.value = link.dataset.kind; find(); });
    });
    find();
  };

  const startAnswers = () => {
    const list = byId("samples");
    if (!list) return;
    const samples = [...list.querySelectorAll(".sample")];
    const filter = byId("answer-filter");
    let shown = Number(list.dataset.first);
    const show = () => {
      const kind = filter?.value ?? "";
      const matching = samples.filter((sample) => !kind || sample.dataset.kinds.split(" ").includes(kind));
      samples.forEach((sample) => { sample.hidden = true; });
      matching.slice(0, shown).forEach((sample) => { sample.hidden = false; });
      byId("more-answers").hidden = matching.length <= shown;
      if (filter) byId("answer-count").textContent = `${matching.length} of ${samples.length} rows`;
    };
    byId("more-answers").addEventListener("click", () => { shown += 10; show(); });
    filter?.addEventListener("change", () => { shown = Number(list.dataset.first); show(); });
    show();
  };

  const startHeat = () => {
    const rows = [...document.querySelectorAll(".heat-row")];
    if (!rows.length) return;
    const chosen = byId("heat-row");
    const show = () => rows.forEach((row, at) => { row.hidden = at !== Number(chosen.value); });
    chosen.addEventListener("change", show);
    byId("heat-figures").addEventListener("click", (event) => {
      const isOn = event.currentTarget.getAttribute("aria-pressed") !== "true";
      event.currentTarget.setAttribute("aria-pressed", String(isOn));
      rows.forEach((row) => row.classList.toggle("with-figures", isOn));
    });
    show();
  };

  const startFollowed = () => {
    const prompts = [...document.querySelectorAll(".followed-prompt")];
    if (!prompts.length) return;
    const chosen = byId("followed-prompt");
    const slider = byId("followed-step");
    const answersOf = (prompt) => [...prompt.querySelectorAll("[data-step]")];
    const steps = [...new Set(prompts.flatMap(answersOf).map((one) => Number(one.dataset.step)))].sort((a, b) => a - b);
    slider.max = String(Math.max(0, steps.length - 1));
    slider.value = slider.max;
    slider.disabled = steps.length < 2;
    const show = () => {
      const step = steps[Number(slider.value)];
      const words = step === undefined ? "no answer yet" : `step ${step.toLocaleString("en")}`;
      prompts.forEach((prompt, at) => {
        prompt.hidden = at !== Number(chosen.value);
        const answers = answersOf(prompt);
        const told = answers.filter((one) => Number(one.dataset.step) <= step).at(-1);
        answers.forEach((one) => { one.hidden = one !== told; });
      });
      byId("followed-at").textContent = words;
      slider.setAttribute("aria-valuetext", words);
    };
    chosen.addEventListener("change", show);
    slider.addEventListener("input", show);
    show();
  };

  startRows();
  startHeat();
  startFollowed();
  startAnswers();
  startCharts();
})();
