"use strict";
/* Asks our own server for what is new, once a second, and draws what changed. */
(() => {
  const EVERY_MS = 1000;
  const MAX_DRAWN = 8;  // runs that are drawn without being asked for
  const token = new URLSearchParams(location.search).get("token") ?? "";
  const { byId, say } = liveDetails;
  const runs = new Map();
  let detail = null;
  let isPaused = false;
  let isLost = false;
  let settingsOf = "";

  const ask = async (path, params = []) => {
    const response = await fetch(`${path}?${new URLSearchParams([...params, ["token", token]])}`, { cache: "no-store" });
    if (!response.ok) throw Object.assign(new Error(await response.text()), { status: response.status });
    return response.json();
  };

  // A record takes its place by step; one that a resumed run writes again replaces the old one.
  const put = (records, record) => {
    let at = records.length;
    while (at > 0 && records[at - 1].step > record.step) at -= 1;
    if (at > 0 && records[at - 1].step === record.step) records[at - 1] = record;
    else records.splice(at, 0, record);
  };
  const take = {
    metrics: (run, record) => {
      if (!Number.isInteger(record.step)) return;
      if ("loss" in record) put(run.train, record);
      else if ("val_loss" in record) put(run.valid, record);
      else if ("probe_loss" in record) put(run.probe, record);
    },
    alarms: (run, record) => run.alarms.push(record),
    events: (run, record) => run.events.push(record),
    samples: (run, record) => run.samples.push(record),
  };
  const forget = (run, kind) => {
    const kept = kind === "metrics" ? ["train", "valid", "probe"] : [kind];
    kept.forEach((name) => { run[name].length = 0; });
  };

  /* Reads on in a file of a run until its end; tells whether anything came. */
  const readOn = async (run, kind) => {
    const [mark, size] = run.info.files[kind];
    const at = run.at[kind];
    if (mark === at.mark && size === at.size) return false;
    let hasChanged = false;
    for (let more = true; more;) {
      const news = await ask(`api/${kind}`, [["run", run.name], ["offset", at.offset], ["mark", at.mark]]);
      if (news.restarted) forget(run, kind);
      news.records.forEach((record) => take[kind](run, record));
      hasChanged ||= news.restarted || news.records.length > 0;
      Object.assign(at, { offset: news.offset, mark: news.mark });
      more = news.more;
    }
    at.size = size;
    return hasChanged;
  };

  const newRun = (info) => {
    const drawn = [...runs.values()].filter((run) => run.isDrawn).length;
    const at = Object.fromEntries(Object.keys(take).map((kind) => [kind, { offset: 0, mark: "", size: -1 }]));
    return { name: info.name, number: newRun.made++, isDrawn: drawn < MAX_DRAWN, at, train: [], valid: [], probe: [], alarms: [], events: [], samples: [] };
  };
  newRun.made = 0;

  const announce = (text) => { byId("announcement").textContent = text; };

  const drawnRuns = () => [...runs.values()].filter((run) => run.isDrawn);

  const drawCurves = () => liveCharts.draw(drawnRuns(), detail);

  const drawDetail = () => {
    liveDetails.drawHeader(detail);
    liveDetails.drawAlarms(detail);
    liveDetails.drawEvents(detail);
    liveDetails.drawAnswers(detail);
  };

  const drawAllRuns = () => liveDetails.drawRuns([...runs.values()], detail, choose);

  const compare = async () => {
    const names = drawnRuns().map((run) => run.name);
    if (names.join("\n") === settingsOf) return;
    settingsOf = names.join("\n");
    liveDetails.drawSettings(await ask("api/settings", names.map((name) => ["run", name])));
  };

  const choose = {
    draw: (run, isDrawn) => { run.isDrawn = isDrawn; update(); drawCurves(); },
    detail: (run) => { detail = run; run.isDrawn = true; drawAllRuns(); drawDetail(); drawCurves(); update(); },
  };

  const meet = (infos) => {
    const there = new Set(infos.map((info) => info.name));
    for (const name of runs.keys()) if (!there.has(name)) runs.delete(name);
    for (const info of infos) {
      if (!runs.has(info.name)) runs.set(info.name, newRun(info));
      const run = runs.get(info.name);
      if (run.info && run.info.status !== info.status) announce(`${run.name}: ${liveDetails.stateOf(info)}`);
      run.info = info;
    }
    if (detail && !runs.has(detail.name)) detail = null;
    if (!detail) {
      const all = [...runs.values()];
      detail = all.filter((run) => run.info.status === "running").at(-1) ?? all.at(-1) ?? null;
      if (detail) { detail.isDrawn = true; drawDetail(); }
    }
  };

  const look = async () => {
    meet((await ask("api/runs")).runs);
    drawAllRuns();
    if (detail) liveDetails.drawHeader(detail);
    let hasChanged = false;
    for (const run of drawnRuns()) hasChanged = (await readOn(run, "metrics")) || hasChanged;
    const shown = detail;
    if (shown) {
      const known = shown.alarms.length;
      if (await readOn(shown, "alarms")) {
        hasChanged = true;
        if (shown === detail) liveDetails.drawAlarms(shown);
        if (known && shown.alarms.length > known) announce(`${shown.name}: ${shown.alarms.at(-1).message}`);
      }
      if (await readOn(shown, "events") && shown === detail) liveDetails.drawEvents(shown);
      if (await readOn(shown, "samples") && shown === detail) liveDetails.drawAnswers(shown);
    }
    if (hasChanged || look.isFirst) drawCurves();
    look.isFirst = false;
    await compare();
  };
  look.isFirst = true;

  let timer = 0;
  let isLooking = false;
  let isWanted = false;
  const update = async () => {
    clearTimeout(timer);
    if (isLooking) { isWanted = true; return; }
    isLooking = true;
    try {
      await look();
      isLost = false;
    } catch (error) {
      isLost = error.status === 403 ? "refused" : "silent";
      if (error.status === undefined && !(error instanceof TypeError)) console.error(error);
    }
    isLooking = false;
    sayConnection();
    if (isWanted) { isWanted = false; update(); return; }
    if (!isPaused && isLost !== "refused") timer = setTimeout(update, EVERY_MS);
  };

  const sayConnection = () => {
    const known = { refused: "not allowed any more: open the address that attune watch printed", silent: "attune watch does not answer: has it been ended?" };
    say(byId("connection"), isLost ? known[isLost] : isPaused ? "paused" : `live, ${liveDetails.several(runs.size, "run")}`);
    byId("connection").className = isLost ? "lost" : isPaused ? "" : "live";
  };

  const startTools = () => {
    const { view } = liveCharts;
    const toggle = (button) => {
      const isOn = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(isOn));
      return isOn;
    };
    byId("pause").addEventListener("click", (event) => { isPaused = toggle(event.currentTarget); sayConnection(); clearTimeout(timer); if (!isPaused) update(); });
    byId("log-scale").addEventListener("click", (event) => { view.isLog = toggle(event.currentTarget); liveCharts.redraw(); });
    byId("axis").addEventListener("change", (event) => { view.axis = event.currentTarget.value; liveCharts.zoom(null); });
    byId("smoothing").addEventListener("input", (event) => {
      view.smoothing = Number(event.currentTarget.value);
      say(byId("smoothing-value"), view.smoothing ? view.smoothing.toFixed(2) : "none");
      liveCharts.redraw();
    });
    const ends = [byId("from"), byId("to")];
    const zoomToEnds = () => {
      const [low, high] = ends.map((end) => (end.value === "" ? null : Number(end.value)));
      if (low === null && high === null) liveCharts.zoom(null);
      else if (high !== null && high > (low ?? 0)) liveCharts.zoom([low ?? 0, high]);
    };
    ends.forEach((end) => end.addEventListener("change", zoomToEnds));
    byId("reset-zoom").addEventListener("click", () => liveCharts.zoom(null));
    liveCharts.whenZoomed((range) => ends.forEach((end, at) => { end.value = range ? String(Math.round(100 * range[at]) / 100) : ""; }));
  };

  startTools();
  liveDetails.startAnswers(() => detail);
  update();
})();
