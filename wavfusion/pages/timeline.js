// A timeline that follows its player, is corrected by hand, and is saved as corrected.
function showTimeline(root = document.body) {
  const find = (selector) => root.querySelector(selector);
  const data = JSON.parse(find("#recording").textContent);
  const source = data.page ?? `<!doctype html>\n${document.documentElement.outerHTML}`; // of the page as it was sent
  const view = timelineView(data);
  const player = find("#player");
  const drawn = new WeakMap(); // the element of each row; rows never change, corrections make new ones
  const undone = [];
  const LISTED = 0.5; // seconds of what was left out from which the list names it; the axis marks all
  const LONG = 200; // utterances from which those out of sight are not laid out
  let rows = data.rows;
  let kept = rows; // those that were saved last
  let items = [];
  let length = data.length || 0.001; // seconds that the strip spans: to the recording's end, where the player knows it
  let width = 800; // pixels of the strip
  let current = null;
  let open = null; // the row that is being corrected

  const ordered = () => [...rows].sort((a, b) => a.start - b.start);
  const speakers = () => [...new Set(ordered().map((row) => row.speaker))];
  const alike = (text) => text.trim() || null;

  function drawStrip() {
    find("#strip").replaceChildren(...view.strip(rows, speakers(), length, width));
    find("#tracks").addEventListener("click", (event) => {
      const box = event.currentTarget.getBoundingClientRect();
      play(((event.clientX - box.left) / box.width) * length);
    });
  }

  function element(row) {
    if (!drawn.has(row)) {
      const made = view.utterance(row, Boolean(player));
      made.querySelector(".play").addEventListener("click", () => play(row.start));
      made.querySelector(".correct").addEventListener("click", () => toggle(open === row ? null : row));
      drawn.set(row, made);
    }
    return drawn.get(row);
  }

  function draw() {
    const all = ordered();
    items = all.map((row) => ({ row, element: element(row) }));
    const out = data.leftOut.filter((each) => each.reason !== data.pause && each.end - each.start >= LISTED).map((each) => ({ row: each, element: view.lost(each) }));
    find("#utterances").replaceChildren(...[...items, ...out].sort((a, b) => a.row.start - b.row.start).map((each) => each.element));
    find("#utterances").classList.toggle("long", rows.length > LONG);
    find("#totals").replaceChildren(...view.totals(rows, speakers()));
    find("#speakers").replaceChildren(...speakers().filter((each) => each !== null).map((value) => view.make("option", { value })));
    find("#undo").disabled = !undone.length;
    drawStrip();
    follow();
  }

  // Shows new rows; undo shows those before again. `focused` finds the field that keeps the focus.
  function change(next, row = null, focused = "") {
    undone.push({ rows, open });
    rows = next;
    find("#changes").textContent = undone.length === 1 ? "1 correction" : `${undone.length} corrections`;
    show(row, focused);
  }

  function show(row, focused) {
    toggle(null);
    draw();
    if (row) toggle(row, focused);
  }

  function undo() {
    if (!undone.length) return;
    const before = undone.pop();
    rows = before.rows;
    find("#changes").textContent = undone.length ? `${undone.length} left to undo` : "";
    show(before.open, "");
  }

  function toggle(row, focused = "select") {
    const last = open && drawn.get(open);
    last?.querySelector(".form")?.remove();
    last?.querySelector(".correct").setAttribute("aria-expanded", "false");
    if (open && !row) last?.querySelector(".correct").focus({ preventScroll: true });
    open = row;
    if (!row) return;
    const made = view.form(row, ordered().at(-1) === row);
    for (const name of ["emotion", "speaker", "text"]) {
      const field = made.querySelector(`[name=${name}]`);
      field.addEventListener("change", () => correct(row, name, alike(field.value)));
    }
    const actions = { split: () => split(row), merge: () => merge(row), close: () => toggle(null) };
    for (const button of made.querySelectorAll("button")) button.addEventListener("click", actions[button.dataset.action]);
    drawn.get(row).append(made);
    drawn.get(row).querySelector(".correct").setAttribute("aria-expanded", "true");
    if (focused) made.querySelector(focused)?.focus({ preventScroll: true });
  }

  function correct(row, name, value) {
    if (row[name] === value) return;
    const next = { ...row, [name]: value, ...(name === "emotion" ? { corrected: true } : {}) };
    if (next.corrected) next.probability = null; // a person's label has none
    // The focus has gone on to where the reader went, unless it is still in this field.
    const focused = document.activeElement?.name ?? document.activeElement?.dataset.action;
    const selector = { split: "[data-action=split]", merge: "[data-action=merge]", close: "[data-action=close]" }[focused] ?? `[name=${focused}]`;
    const inside = drawn.get(row).contains(document.activeElement) && focused;
    change(rows.map((each) => (each === row ? next : each)), next, inside ? selector : "");
  }

  function split(row) {
    const at = player?.currentTime ?? -1;
    const within = at > row.start + 0.05 && at < row.end - 0.05;
    const middle = Math.round(1000 * (within ? at : (row.start + row.end) / 2)) / 1000;
    if (middle <= row.start || middle >= row.end) return;
    const words = (row.text ?? "").split(/\s+/).filter(Boolean);
    const first = Math.round((words.length * (middle - row.start)) / (row.end - row.start));
    const parts = [
      { ...row, end: middle, text: alike(words.slice(0, first).join(" ")) },
      { ...row, start: middle, text: alike(words.slice(first).join(" ")) },
    ];
    change(rows.flatMap((each) => (each === row ? parts : [each])), parts[1], "[name=text]");
  }

  // Probabilities are averaged by length, as for the windows of an utterance; a correction stays.
  function merge(row) {
    const all = ordered();
    const next = all[all.indexOf(row) + 1];
    if (!next) return;
    const [one, two] = [row.end - row.start, next.end - next.start];
    const probabilities = Object.fromEntries(data.classes.map((each) => [each, (one * row.probabilities[each] + two * next.probabilities[each]) / (one + two)]));
    const likeliest = data.classes.reduce((best, each) => (probabilities[each] > probabilities[best] ? each : best));
    const corrected = [row, next].filter((each) => each.corrected);
    const told = corrected[0] ?? (row.emotion || next.emotion ? { emotion: likeliest } : { emotion: null });
    const both = {
      ...row, end: Math.max(row.end, next.end), text: alike([row.text, next.text].filter(Boolean).join(" ")), emotion: told.emotion,
      probability: corrected.length ? null : probabilities[likeliest], probabilities, contribution: null, text_share: null,
      modalities: ["audio", "text", "video"].filter((each) => row.modalities.includes(each) || next.modalities.includes(each)),
      warnings: [...new Set([...row.warnings, ...next.warnings])], ...(corrected.length ? { corrected: true } : {}),
    };
    change(rows.flatMap((each) => (each === row ? [both] : each === next ? [] : [each])), both, "[data-action=merge]");
  }

  function follow() {
    if (!player) return;
    const at = player.currentTime;
    find("#head").style.left = `${(100 * Math.min(length, at)) / length}%`;
    // Several may speak at once; the utterance that started last is shown.
    const now = items.filter(({ row }) => row.start <= at && at < row.end).at(-1)?.element ?? null;
    if (now === current) return;
    current?.removeAttribute("aria-current");
    now?.setAttribute("aria-current", "true");
    if (now && find("#follow").checked && !player.paused) now.scrollIntoView({ block: "nearest" });
    current = now;
  }

  function play(from) {
    if (!player) return;
    player.currentTime = from;
    player.play().catch(() => {});
    follow();
  }

  function pageText() {
    const page = new DOMParser().parseFromString(source, "text/html");
    page.querySelector("#recording").textContent = JSON.stringify({ ...data, rows, page: undefined }).replaceAll("<", "\\u003c");
    page.querySelector("noscript table")?.remove(); // it has the labels before their correction
    return `<!doctype html>\n${page.documentElement.outerHTML}`;
  }

  function save(file, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/octet-stream" }));
    link.download = file;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    kept = rows;
  }

  function offer() {
    const formats = { ...timelineFormats(data, rows), html: { title: "this page", file: `${data.file}.html` } };
    for (const [kind, { title, file }] of Object.entries(formats)) {
      const button = view.make("button", { type: "button", "data-file": file, "data-kind": kind }, title);
      button.addEventListener("click", () => save(file, kind === "html" ? pageText() : timelineFormats(data, rows)[kind].write()));
      find("#saving").append(button);
    }
  }

  if (player) {
    const span = () => {
      if (!(Number.isFinite(player.duration) && player.duration > length)) return;
      length = player.duration;
      drawStrip();
      follow();
    };
    for (const name of ["timeupdate", "seeked"]) player.addEventListener(name, follow);
    player.addEventListener("durationchange", span);
    player.addEventListener("error", () => { find("#unplayable").hidden = false; });
    span();
  }
  find("#undo").addEventListener("click", undo);
  find("#totals").addEventListener("change", ({ target }) => {
    const old = JSON.parse(target.dataset.speaker);
    const renamed = alike(target.value);
    if (renamed !== old) change(rows.map((row) => (row.speaker === old ? { ...row, speaker: renamed } : row)));
  });
  root.addEventListener("keydown", (event) => {
    const typing = event.target.matches("input:not([type=checkbox]), textarea, select");
    if (event.key === "z" && (event.ctrlKey || event.metaKey) && !event.shiftKey && !typing) {
      event.preventDefault();
      undo();
    } else if (event.key === "Escape" && open && event.target.closest(".form")) toggle(null);
    else if (event.key === "Escape" && event.target.matches(".why")) event.target.blur();
  });
  window.addEventListener("beforeunload", (event) => {
    if (rows !== kept && rows !== data.rows) event.preventDefault(); // the browser asks: corrections are in the page alone
  });
  window.addEventListener("beforeprint", () => {
    for (const each of root.querySelectorAll("details")) each.dispatchEvent(new Event("fill"));
  });
  offer();
  draw();
  new ResizeObserver(() => {
    if (find("#tracks").clientWidth === width) return;
    width = find("#tracks").clientWidth;
    drawStrip();
    follow();
  }).observe(find("#strip"));
}

if (document.getElementById("recording")) showTimeline();
