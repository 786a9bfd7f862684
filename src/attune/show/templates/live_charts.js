"use strict";
/* Curves of several runs in linked charts. A run is {name, number, train, valid, probe, alarms}: records in step order. */
const liveCharts = (() => {
  const MAX_POINTS = 1500;  // of a curve; above it each bucket keeps its lowest and highest point, so that spikes stay
  const MAX_TABLE_ROWS = 60;
  const FEW_POINTS = 30;
  const NUM_COLOURS = 8;
  const isTouch = matchMedia("(pointer: coarse)").matches;
  const config = { displayModeBar: false, displaylogo: false, doubleClick: "autosize", showTips: false };
  const view = { axis: "step", isLog: false, smoothing: 0, zoom: null };
  const figures = [...document.querySelectorAll("[data-curve]")];
  const near = new Set();  // figures within a screen of what is seen; the others wait until they come near
  const waiting = new Set();
  let runs = [];
  let detail = null;
  let onZoom = () => {};

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
  const colourOf = (run) => colour(`--run-${run.number % NUM_COLOURS}`);
  // Plotly reads a few tags in the names of curves; a run's name must not be read so.
  const asText = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

  const figure = (value) => {
    if (!isNumber(value)) return "-";
    const size = Math.abs(value);
    if (size && (size < 1e-3 || size >= 1e5)) return value.toExponential(2).replace("e+", "e");
    return size < 100 ? value.toFixed(3) : value.toLocaleString("en-US", { maximumFractionDigits: 1 });
  };
  const shown = (value, tick) => (isNumber(value) && tick.includes("%") ? `${(100 * value).toFixed(1)} %` : figure(value));

  const place = (record) => (view.axis === "time" ? record.time / 60 : record.step);

  const points = (records, key) => {
    const found = [];
    for (const record of records) {
      const x = place(record);
      if (isNumber(record[key]) && isNumber(x)) found.push([x, record[key], record.step]);
    }
    return found;
  };

  const thin = (curve) => {
    if (curve.length <= MAX_POINTS) return curve;
    const width = Math.ceil((2 * curve.length) / MAX_POINTS);
    const kept = [];
    for (let start = 0; start < curve.length; start += width) {
      let low = start, high = start;
      const end = Math.min(curve.length, start + width);
      for (let at = start; at < end; at += 1) {
        if (curve[at][1] < curve[low][1]) low = at;
        if (curve[at][1] > curve[high][1]) high = at;
      }
      kept.push(...[...new Set([low, high])].sort((a, b) => a - b).map((at) => curve[at]));
    }
    if (kept.at(-1) !== curve.at(-1)) kept.push(curve.at(-1));
    return kept;
  };

  const smooth = (curve) => {
    const keep = view.smoothing;
    let mean = 0, weight = 0;
    return curve.map(([x, y, step]) => {
      mean = keep * mean + (1 - keep) * y;
      weight = keep * weight + (1 - keep);
      return [x, mean / weight, step];
    });
  };

  // Only what the zoom shows, with a neighbour on each side, so that the y axis fits it.
  const cut = (curve) => {
    if (!view.zoom) return curve;
    const [low, high] = view.zoom;
    const first = curve.findIndex(([x]) => x >= low);
    if (first < 0) return curve.slice(-1);
    let last = curve.length - 1;
    while (last > first && curve[last][0] > high) last -= 1;
    return curve.slice(Math.max(0, first - 1), last + 2);
  };

  const line = (name, curve, look) => ({
    type: "scatter",
    name: asText(name),
    mode: curve.length <= FEW_POINTS ? "lines+markers" : "lines",
    x: curve.map((point) => point[0]),
    y: curve.map((point) => point[1]),
    customdata: curve.map((point) => point[2]),
    hovertemplate: "%{y:.4~g} (step %{customdata:,d})",
    marker: { size: 4, color: look.color },
    ...look,
    line: { width: 2, color: look.color, ...look.line },
  });

  const isProbe = (key) => key === "general_loss" || key === "kl_general" || key === "kl_task";

  const validName = (run, key) => (isProbe(key) ? run.name : `${run.name}, validation`);

  const curvesOf = (run, key) => (isProbe(key)
    ? { train: [], valid: points(run.probe, key) }
    : { train: points(run.train, key), valid: points(run.valid, `val_${key}`) });

  const tracesOf = (run, key) => {
    const color = colourOf(run);
    const dash = run.number < NUM_COLOURS ? "solid" : "dash";
    const { train, valid } = curvesOf(run, key);
    const traces = [];
    if (train.length && view.smoothing > 0) {
      traces.push({ ...line(run.name, thin(cut(train)), { color, line: { width: 1, dash } }), opacity: 0.3, hoverinfo: "skip", hovertemplate: null });
      traces.push(line(`${run.name}, smoothed`, thin(cut(smooth(train))), { color, line: { dash } }));
    } else if (train.length) {
      traces.push(line(run.name, thin(cut(train)), { color, line: { dash } }));
    }
    if (valid.length) {
      traces.push(line(validName(run, key), thin(cut(valid)), { color, line: { dash: "dot", width: 2.5 }, marker: { size: 6, color } }));
    }
    return traces;
  };

  const detailTraces = (key, range) => {
    if (!detail) return [];
    const traces = [];
    const records = isProbe(key) ? detail.probe : detail.valid;
    const base = records[0]?.step === 0 ? records[0][isProbe(key) ? key : `val_${key}`] : null;
    if (isNumber(base)) {
      traces.push({ ...line("base model", range.map((x) => [x, base, 0]), { color: colour("--level"), line: { width: 1.5, dash: "dash" } }), mode: "lines", hovertemplate: "%{y:.4~g}" });
    }
    const { train, valid } = curvesOf(detail, key);
    const where = train.length ? train : valid;
    const marks = key === "loss" ? detail.alarms.map((alarm) => [alarm, where.find((point) => point[2] >= alarm.step) ?? where.at(-1)]).filter(([, at]) => at && inView(at[0])) : [];
    if (marks.length) {
      traces.push({
        ...line("alarm", marks.map(([, at]) => at), { color: colour("--valid") }),
        mode: "markers",
        marker: { symbol: "x", size: 11, color: colour("--valid"), line: { color: colour("--paper"), width: 1.5 } },
        text: marks.map(([alarm]) => asText(`${alarm.severity} ${alarm.id} ${alarm.name}`)),
        hovertemplate: "%{text} (step %{customdata:,d})",
      });
    }
    return traces;
  };

  const inView = (x) => !view.zoom || (x >= view.zoom[0] && x <= view.zoom[1]);

  const wholeRange = () => {
    let high = 0;
    for (const run of runs) {
      for (const records of [run.train, run.valid]) {
        const x = records.length ? place(records.at(-1)) : 0;
        if (isNumber(x)) high = Math.max(high, x);
      }
    }
    return [-0.02 * (high || 1), 1.02 * (high || 1)];
  };

  const layoutOf = (one, range) => {
    const axis = { color: colour("--muted"), gridcolor: colour("--rule"), linecolor: colour("--rule"), zeroline: false, automargin: true };
    const spike = { showspikes: true, spikemode: "across", spikethickness: 1, spikecolor: colour("--level"), spikedash: "solid" };
    const isTime = view.axis === "time";
    const plot = one.querySelector(".plot");
    return {
      xaxis: {
        ...axis, ...spike, range: [...range], autorange: false, showgrid: false, nticks: 7, hoverformat: isTime ? ".1f" : ",d",
        unifiedhovertitle: { text: isTime ? "%{x} min" : "step %{x}" }, title: { text: isTime ? "minutes" : "step", standoff: 4 },
      },
      yaxis: {
        ...axis, nticks: 6, tickformat: one.dataset.tick, fixedrange: true, autorange: true,
        type: view.isLog && "log" in one.dataset ? "log" : "linear", rangemode: "zero" in one.dataset ? "tozero" : "normal",
      },
      font: { family: getComputedStyle(document.body).fontFamily, size: 12 },
      margin: { l: 8, r: 8, t: 12, b: 8 },
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      hovermode: "x unified",
      hoverdistance: -1,  // the nearest record, however far
      hoverlabel: { bgcolor: colour("--paper"), bordercolor: colour("--rule"), font: { color: colour("--ink") }, namelength: -1 },
      showlegend: false,
      dragmode: isTouch ? false : "zoom",  // a finger that scrolls the page must not zoom a chart
      width: plot.clientWidth,
      height: plot.clientHeight,
    };
  };

  const label = (one) => {
    const { key, tick } = one.dataset;
    const from = (what, curve) => `${what} from ${shown(curve[0][1], tick)} at step ${curve[0][2]} to ${shown(curve.at(-1)[1], tick)} at step ${curve.at(-1)[2]}`;
    const parts = [];
    for (const run of runs) {
      const { train, valid } = curvesOf(run, key);
      if (train.length) parts.push(from(run.name, train));
      if (valid.length) parts.push(from(validName(run, key), valid));
    }
    return `${one.querySelector("h3").firstChild.textContent.trim()}: ${parts.join("; ")}.`;
  };

  const drawTable = (one) => {
    if (!one.querySelector("details").open) return;
    const { key, tick } = one.dataset;
    const columns = [];
    for (const run of runs) {
      const { train, valid } = curvesOf(run, key);
      for (const [curve, what] of [[train, run.name], [valid, validName(run, key)]]) {
        if (curve.length) columns.push([what, new Map(curve.map((point) => [point[2], point[1]]))]);
      }
    }
    const steps = [...new Set(columns.flatMap(([, values]) => [...values.keys()]))].sort((a, b) => a - b);
    const every = Math.max(1, Math.ceil(steps.length / MAX_TABLE_ROWS));
    const kept = steps.filter((_, at) => at % every === 0 || at === steps.length - 1);
    const cell = (tag, text, scope) => {
      const made = document.createElement(tag);
      made.textContent = text;
      if (scope) made.scope = scope;
      return made;
    };
    const row = (cells) => {
      const made = document.createElement("tr");
      made.append(...cells);
      return made;
    };
    one.querySelector("thead").replaceChildren(row([cell("th", "Step", "col"), ...columns.map(([name]) => cell("th", name, "col"))]));
    one.querySelector("tbody").replaceChildren(...kept.map((step) => row([
      cell("th", step.toLocaleString("en-US"), "row"),
      ...columns.map(([, values]) => cell("td", shown(values.get(step), tick))),
    ])));
  };

  const drawOne = (one, range) => {
    const curves = runs.map((run) => curvesOf(run, one.dataset.key));
    one.hidden = !curves.some(({ train, valid }) => train.length || valid.length);
    if (one.hidden) return;
    const plot = one.querySelector(".plot");
    plot.setAttribute("aria-label", label(one));
    drawTable(one);
    waiting.delete(one);
    if (!near.has(one)) { waiting.add(one); return; }
    const traces = runs.flatMap((run) => tracesOf(run, one.dataset.key));
    const isNew = !plot.classList.contains("js-plotly-plot");
    Plotly.react(plot, [...traces, ...detailTraces(one.dataset.key, range)], layoutOf(one, range), config);
    if (isNew) plot.on("plotly_relayout", zoomed);
  };

  const zoomed = (change) => {
    const range = change["xaxis.range"] ?? [change["xaxis.range[0]"], change["xaxis.range[1]"]];
    if (change["xaxis.autorange"]) zoom(null);
    else if (isNumber(range[0]) && isNumber(range[1])) zoom([...range]);
  };

  const zoom = (range) => {
    view.zoom = range;
    onZoom(range);
    redraw();
  };

  const redraw = () => {
    const range = view.zoom ?? wholeRange();
    figures.forEach((one) => drawOne(one, range));
    document.getElementById("no-curves").hidden = figures.some((one) => !one.hidden);
  };

  const draw = (drawn, detailed) => {
    runs = drawn;
    detail = detailed;
    redraw();
  };

  const drawWaiting = () => { const range = view.zoom ?? wholeRange(); [...waiting].forEach((one) => drawOne(one, range)); };
  const watcher = new IntersectionObserver((seen) => {
    seen.forEach((one) => (one.isIntersecting ? near.add(one.target) : near.delete(one.target)));
    drawWaiting();
  }, { rootMargin: "100% 0px" });
  figures.forEach((one) => watcher.observe(one));
  addEventListener("beforeprint", () => { figures.forEach((one) => near.add(one)); drawWaiting(); });

  figures.forEach((one) => one.querySelector("details").addEventListener("toggle", () => drawTable(one)));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => redraw());
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; redraw(); } });

  return { view, draw, redraw, zoom, figure, isNumber, NUM_COLOURS, whenZoomed: (heard) => { onZoom = heard; } };
})();
