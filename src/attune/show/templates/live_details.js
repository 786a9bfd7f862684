"use strict";
/* Tables and words: of all runs, and of the one whose details are shown. Data become text nodes, never markup. */
const liveDetails = (() => {
  const MAX_EVENTS = 30;
  const byId = (id) => document.getElementById(id);
  const { figure, isNumber, NUM_COLOURS } = liveCharts;

  const make = (tag, known = {}, ...inside) => {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(known)) {
      if (value !== null && value !== false) made.setAttribute(name, value === true ? "" : value);
    }
    made.append(...inside.map((one) => (one instanceof Node ? one : document.createTextNode(String(one)))));
    return made;
  };
  const say = (element, text) => { if (element.textContent !== text) element.textContent = text; };
  const count = (value) => (isNumber(value) ? Math.round(value).toLocaleString("en-US") : "-");
  const duration = (seconds) => {
    if (!isNumber(seconds)) return "-";
    if (seconds < 100) return `${Math.round(seconds)} s`;
    const minutes = Math.round(seconds / 60);
    return minutes < 60 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, "0")} min`;
  };
  const several = (number, word) => `${count(number)} ${word}${number === 1 ? "" : "s"}`;

  const stateOf = (info) => {
    if (info.silent_s !== null) return `silent for ${duration(info.silent_s)}: it may have been killed`;
    return info.stopped_early ? "stopped early" : info.status;
  };
  const progressOf = (info) => (info.total_steps ? `${count(info.step)} of ${count(info.total_steps)}` : count(info.step));
  const alarmsOf = (info) => {
    const parts = ["error", "warning"].filter((kind) => info.alarms[kind]).map((kind) => several(info.alarms[kind], kind));
    return parts.join(", ") || "none";
  };

  const table = (header, rows, caption) => make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    make("table", { class: "stack", role: "table" },
      make("thead", {}, make("tr", {}, ...header.map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, ...rows)));

  // Rows stay the same elements from one answer to the next, so that a focused control keeps its focus.
  const rowElements = new Map();
  const runRow = (run, choose) => {
    const box = make("input", { type: "checkbox", "aria-label": `Draw ${run.name}` });
    const name = make("button", { type: "button", "aria-pressed": "false" }, run.name);
    const state = make("small", {});
    const swatch = make("span", { class: `swatch run-${run.number % NUM_COLOURS}${run.number < NUM_COLOURS ? "" : " again"}`, "aria-hidden": "true" });
    const head = make("th", { scope: "row", role: "rowheader" }, make("div", { class: "run-name" }, box, swatch, make("div", {}, name, state)));
    const cells = ["Step", "Loss", "Validation loss", "Lowest", "Alarms", "Time left"].map((label) => make("td", { role: "cell", "data-label": label }));
    box.addEventListener("change", () => choose.draw(run, box.checked));
    name.addEventListener("click", () => choose.detail(run));
    const row = make("tr", { role: "row" }, head, ...cells);
    return { row, box, name, state, cells };
  };
  const drawRuns = (runs, detail, choose) => {
    for (const run of runs) {
      if (!rowElements.has(run)) rowElements.set(run, runRow(run, choose));
      const { box, name, state, cells, row } = rowElements.get(run);
      const { info } = run;
      box.checked = run.isDrawn;
      name.setAttribute("aria-pressed", String(run === detail));
      say(state, stateOf(info));
      const lowest = isNumber(info.lowest_loss) ? `${figure(info.lowest_loss)} at ${count(info.lowest_step)}` : "-";
      const said = [progressOf(info), figure(info.loss), figure(info.val_loss), lowest, alarmsOf(info), duration(info.seconds_left)];
      said.forEach((text, at) => say(cells[at], text));
      cells[4].classList.toggle("wrong", info.alarms.error > 0);
      if (!row.isConnected) byId("run-rows").append(row);
    }
    for (const [run, { row }] of rowElements) {
      if (!runs.includes(run)) { row.remove(); rowElements.delete(run); }
    }
  };

  const drawHeader = (run) => {
    const { info } = run;
    const share = info.total_steps ? ` (${Math.floor((100 * info.step) / info.total_steps)} %)` : "";
    say(byId("headline"), `${run.name}: ${stateOf(info)}, step ${progressOf(info)}${share}`);
    document.title = `${share.trim() || info.step} ${run.name} - attune watch`;
    document.querySelectorAll(".of-run").forEach((one) => say(one, `of ${run.name}`));
    const base = isNumber(info.base_loss) ? `base model ${figure(info.base_loss)}` : "nats per learned token";
    const known = [
      ["Loss", figure(info.loss), "training, last step"],
      ["Validation loss", figure(info.val_loss), base],
      ["Lowest so far", figure(info.lowest_loss), isNumber(info.lowest_step) ? `validation, step ${count(info.lowest_step)}` : "not measured yet"],
      ["Time left", duration(info.seconds_left), `${duration(info.seconds)} so far, ${count(info.tokens_per_s)} tokens/s`],
    ];
    const list = byId("key-figures");
    if (!list.children.length) list.append(...known.map(([name]) => make("div", {}, make("dt", {}, name), make("dd", {}, make("b"), " ", make("small")))));
    known.forEach(([, value, under], at) => {
      say(list.children[at].querySelector("b"), value);
      say(list.children[at].querySelector("small"), under);
    });
  };

  const cell = (label, known, ...inside) => make("td", { role: "cell", "data-label": label, ...known }, ...inside);

  const drawAlarms = (run) => {
    const rows = [...run.alarms].reverse().map((alarm) => make("tr", { role: "row" },
      make("th", { scope: "row", role: "rowheader" }, `${alarm.id ?? ""} `, make("small", {}, alarm.name ?? "")),
      cell("Step", {}, count(alarm.step)),
      cell("Severity", { class: alarm.severity === "error" ? "error" : alarm.severity === "warning" ? "warning" : "" }, alarm.severity ?? ""),
      cell("Figure", {}, figure(alarm.figure)),
      cell("Threshold", {}, figure(alarm.threshold)),
      cell("", { class: "wide" }, alarm.message ?? "", ...(alarm.fix ? [make("p", {}, alarm.fix)] : []),
        ...(alarm.rows?.length ? [make("p", { class: "place" }, `rows: ${alarm.rows.join(", ")}`)] : []))));
    const header = ["Alarm", "Step", "Severity", "Figure", "Threshold", "What it means and what to do"];
    byId("alarm-list").replaceChildren(rows.length ? table(header, rows, "Alarms") : make("p", { class: "quiet" }, "No alarm has been raised."));
  };

  const drawEvents = (run) => {
    const rows = run.events.slice(-MAX_EVENTS).reverse().map((event) => make("tr", { role: "row" },
      make("th", { scope: "row", role: "rowheader" }, duration(event.time)), cell("", {}, event.kind ?? ""), cell("", { class: "wide" }, event.message ?? "")));
    const more = run.events.length > MAX_EVENTS ? [make("p", { class: "quiet" }, `The last ${MAX_EVENTS} of ${count(run.events.length)}.`)] : [];
    byId("event-list").replaceChildren(...(rows.length ? [table(["After", "Kind", "What"], rows, "Events"), ...more] : [make("p", { class: "quiet" }, "Nothing has happened yet.")]));
  };

  const drawSettings = ({ runs, settings }) => {
    const rows = settings.map((one) => make("tr", { role: "row" }, make("th", { scope: "row", role: "rowheader" }, make("code", {}, one.name)),
      ...one.values.map((value, at) => cell(runs[at], {}, value ?? "not set"))));
    const none = runs.length < 2 ? "Draw two runs or more to compare their settings." : "The drawn runs have the same settings.";
    byId("setting-list").replaceChildren(rows.length ? table(["Setting", ...runs], rows, "Settings") : make("p", { class: "quiet" }, none));
  };

  // Fixed prompts by place, each with its answers by step; step 0 is the base model.
  const shown = { prompt: 0, step: "last" };
  const promptsOf = (run) => {
    const prompts = new Map();
    for (const sample of run.samples) {
      const where = `${sample.file}:${sample.line}`;
      if (!prompts.has(where)) prompts.set(where, { ...sample, where, base: null, tuned: new Map() });
      const one = prompts.get(where);
      if (sample.system === "base") one.base = sample;
      else one.tuned.set(sample.step, sample);
    }
    return [...prompts.values()];
  };
  const answerText = (sample, none) => {
    if (!sample) return none;
    const text = sample.answer === "" ? "(an empty answer)" : sample.answer;
    return sample.finished === false ? `${text} [ran into the token limit]` : text;
  };
  const drawAnswers = (run) => {
    const prompts = promptsOf(run);
    byId("answer").hidden = !prompts.length;
    byId("no-answers").hidden = prompts.length > 0;
    if (!prompts.length) return;
    shown.prompt = Math.max(0, Math.min(prompts.length - 1, shown.prompt));
    const one = prompts[shown.prompt];
    const steps = [...one.tuned.keys()].sort((a, b) => a - b);
    const choice = byId("answer-step");
    const wanted = ["last", ...steps.map(String)];
    if (wanted.join() !== [...choice.options].map((option) => option.value).join()) {
      choice.replaceChildren(...wanted.map((step) => make("option", { value: step }, step === "last" ? "the last one" : count(Number(step)))));
    }
    if (!wanted.includes(shown.step)) shown.step = "last";
    choice.value = shown.step;
    const step = shown.step === "last" ? steps.at(-1) : Number(shown.step);
    byId("prompt-previous").disabled = shown.prompt === 0;
    byId("prompt-next").disabled = shown.prompt === prompts.length - 1;
    say(byId("prompt-position"), `${shown.prompt + 1} of ${prompts.length}`);
    say(byId("answer-place"), one.where.split("/").at(-1));
    say(byId("answer-prompt"), one.prompt ?? "");
    say(byId("answer-reference"), one.reference ?? "");
    say(byId("answer-base"), answerText(one.base, "(not asked)"));
    say(byId("answer-when"), step === undefined ? "Tuned" : `Tuned, step ${count(step)}`);
    say(byId("answer-tuned"), answerText(one.tuned.get(step), "(not asked yet)"));
  };
  const startAnswers = (current) => {
    const again = () => { if (current()) drawAnswers(current()); };
    byId("prompt-previous").addEventListener("click", () => { shown.prompt -= 1; again(); });
    byId("prompt-next").addEventListener("click", () => { shown.prompt += 1; again(); });
    byId("answer-step").addEventListener("change", (event) => { shown.step = event.currentTarget.value; again(); });
  };

  return { byId, say, several, stateOf, drawRuns, drawHeader, drawAlarms, drawEvents, drawSettings, drawAnswers, startAnswers };
})();
