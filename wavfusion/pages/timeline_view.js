// How a timeline looks: each function turns data into elements; every text becomes a text node.
function timelineView(data) {
  const UNKNOWN = "unknown speaker";
  const STEPS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400];
  const percent = (part, digits = 0) => `${(100 * part).toFixed(digits)} %`;
  const tint = (emotion) => (data.classes.includes(emotion) ? `var(--e${data.classes.indexOf(emotion) % 9})` : "var(--soft)");
  const name = (row) => row.emotion ?? "?";

  function make(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
    made.append(...children.flat().filter((each) => each !== null && each !== ""));
    return made;
  }

  // Minutes and seconds, with hours where there are any.
  function short(seconds, digits = 1) {
    const parts = Math.round(seconds * 10 ** digits) / 10 ** digits;
    const rest = (parts % 60).toFixed(digits).padStart(digits ? 3 + digits : 2, "0");
    const minutes = Math.floor(parts / 60);
    return minutes < 60 ? `${minutes}:${rest}` : `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")}:${rest}`;
  }

  // From 0 for what a guess reaches to 1: how strong the line of an utterance is.
  function sureness(row) {
    return row.corrected ? 1 : Math.max(0, Math.min(1, (row.probability - data.chance) / (1 - data.chance || 1)));
  }

  const style = (row) => `--tint: ${tint(row.emotion)}; --sure: ${(0.2 + 0.8 * sureness(row)).toFixed(2)}`;

  // A number or warning that explains itself on hover and on focus.
  function explained(text, why, kind = "") {
    return make("span", { class: `why ${kind}`.trim(), tabindex: 0, role: "note", "aria-label": `${text}: ${why}`, "data-why": why }, text);
  }

  function probability(row) {
    if (row.corrected) return explained("corrected", "A person chose this label on this page.");
    const hundred = (100 * row.probability).toFixed(0);
    const guess = `A blind guess is right in ${(100 * data.chance).toFixed(0)} of 100.`;
    const why = `The model gives “${name(row)}” a probability of ${hundred} in 100, as reckoned on recordings like its training data; on others it errs more. ${guess}`;
    const abstained = `Its best guess has ${hundred} in 100, less than was asked for, so it names no emotion. ${guess}`;
    return explained(percent(row.probability), row.emotion ? why : abstained);
  }

  function waveform(length) {
    const { peaks } = data;
    const most = Math.max(10, ...peaks);
    const edge = peaks.map((peak, i) => `${i} ${(-peak / most).toFixed(2)}L${i + 1} ${(-peak / most).toFixed(2)}`);
    const back = peaks.map((peak, i) => `${i + 1} ${(peak / most).toFixed(2)}L${i} ${(peak / most).toFixed(2)}`).reverse();
    const shape = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    shape.setAttribute("viewBox", `0 -1 ${peaks.length} 2`);
    shape.setAttribute("preserveAspectRatio", "none");
    shape.style.width = `${(100 * data.length) / length}%`;
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", `M${[...edge, ...back].join("L")}Z`);
    shape.append(path);
    return make("div", { class: "wave", "aria-hidden": "true" }, shape);
  }

  const place = ({ start, end }, length) => `left: ${(100 * start) / length}%; width: ${(100 * (end - start)) / length}%`;

  function axis(length, width) {
    const step = STEPS.find((each) => length / each <= Math.max(2, width / 72)) ?? 28800;
    const ticks = [];
    for (let at = 0; at <= length * 0.999; at += step) {
      const edge = at / length > 1 - 40 / Math.max(80, width); // no room for its number
      ticks.push(make("span", { style: `left: ${(100 * at) / length}%` }, edge ? "" : short(at, step < 1 ? 1 : 0)));
    }
    const left = data.leftOut.map((each) => {
      const title = `${short(each.start)} - ${short(each.end)} left out: ${each.reason}`;
      return make("u", { class: each.reason === data.pause ? "pause" : null, style: place(each, length), title });
    });
    return make("div", { class: "axis" }, ticks, left);
  }

  // The waveform, a row for each speaker and the axis; `length` seconds on `width` pixels.
  function strip(rows, speakers, length, width) {
    const lanes = speakers.map((speaker) => {
      const bars = rows.filter((row) => row.speaker === speaker).map((row) => {
        const title = `${short(row.start)} ${name(row)} ${row.corrected ? "corrected" : percent(row.probability)}${row.speaker ? `, ${row.speaker}` : ""}`;
        return make("b", { style: `${place(row, length)}; ${style(row)}`, title }, make("span", {}, name(row)));
      });
      return make("div", { class: "lane" }, bars);
    });
    const named = speakers.some((speaker) => speaker !== null);
    const names = make("div", { class: "names", hidden: !named }, data.peaks.length ? make("span", { class: "wave" }) : "", ...speakers.map((each) => make("span", {}, each ?? UNKNOWN)));
    const label = `Timeline of ${rows.length} utterances; they are listed below`;
    const tracks = make("div", { id: "tracks", role: "img", "aria-label": label, "data-length": length });
    tracks.append(...(data.peaks.length ? [waveform(length)] : []), ...lanes, axis(length, width), make("i", { id: "head" }));
    return [names, tracks];
  }

  function mix(rows, whose) {
    const seconds = (some) => some.reduce((sum, row) => sum + row.end - row.start, 0);
    const all = seconds(rows);
    const parts = [...data.classes, null]
      .map((emotion) => ({ emotion, time: seconds(rows.filter((row) => row.emotion === emotion)) }))
      .filter(({ time }) => time > 0);
    const bar = make("span", { class: "mix", "aria-hidden": "true" }, parts.map(({ emotion, time }) => make("i", { style: `--tint: ${tint(emotion)}; width: ${(100 * time) / all}%` })));
    const shares = parts.map(({ emotion, time }) => {
      const why = `${time.toFixed(1)} s of ${all.toFixed(1)} s of ${whose}, by the length of utterances.`;
      return make("span", { style: `--tint: ${tint(emotion)}` }, make("i", { class: "key", "aria-hidden": "true" }), `${emotion ?? "no emotion named"} `, explained(percent(time / all), why));
    });
    const counted = `${all.toFixed(1)} s`;
    return [make("span", { class: "amount" }, counted, make("span", { class: "note" }, `${rows.length} ${rows.length === 1 ? "utterance" : "utterances"}`)), bar, make("span", { class: "parts" }, shares)];
  }

  // Each speaker, with a field for the name; then all together, and what was left out.
  function totals(rows, speakers) {
    const items = speakers.map((speaker) => {
      const field = make("input", { value: speaker ?? "", placeholder: UNKNOWN, "aria-label": `name of ${speaker ?? UNKNOWN}`, "data-speaker": JSON.stringify(speaker), autocomplete: "off", spellcheck: "false" });
      return make("li", {}, field, ...mix(rows.filter((row) => row.speaker === speaker), speaker ?? UNKNOWN));
    });
    if (speakers.length > 1) items.push(make("li", {}, make("b", {}, "all"), ...mix(rows, "all speakers")));
    const lost = new Map();
    for (const each of data.leftOut) lost.set(each.reason, (lost.get(each.reason) ?? 0) + each.end - each.start);
    const out = [...lost].map(([reason, seconds]) => `${reason} ${seconds.toFixed(1)} s`).join(", ");
    return [...items, ...(out ? [make("li", { class: "note" }, `left out: ${out}`)] : [])];
  }

  // Filled when it is opened or printed: an hour of utterances has a hundred thousand of these numbers.
  function details(row) {
    const made = make("details", {}, make("summary", {}, "probabilities and contributions"));
    const fill = () => made.childElementCount === 1 && made.append(...numbers(row));
    made.addEventListener("toggle", fill);
    made.addEventListener("fill", fill);
    return made;
  }

  function numbers(row) {
    const shares = data.classes.map((emotion) => {
      const part = row.probabilities[emotion];
      const track = make("span", { class: "track", "aria-hidden": "true" }, make("i", { style: `width: ${percent(part, 1).replace(" ", "")}` }));
      return make("li", { style: `--tint: ${tint(emotion)}` }, make("span", {}, emotion), track, make("span", {}, percent(part, 1)));
    });
    const told = [`From ${row.modalities.join(", ")}.`, row.language ? ` The text was recognised, in the language ${row.language}.` : ""];
    if (row.contribution) told.push(" Contribution to the logarithm of this probability:");
    for (const [modality, value] of Object.entries(row.contribution ?? {})) {
      const why = `${modality} makes this label ${Math.exp(value).toFixed(2)} times as probable as it is without (a Shapley value: e to the power of ${value.toFixed(2)}).`;
      told.push(" ", explained(`${modality} ${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`, why));
    }
    if (row.text_share !== null) told.push(" Gate value: ", explained(`text weight ${percent(row.text_share)}`, "How much of what the model mixed into the voice came from the words; the rest came from the picture."));
    return [make("ul", { class: "shares" }, shares), make("p", {}, told)];
  }

  function utterance(row, plays) {
    const clock = short(row.start);
    const unusual = row.warnings.map((each) => make("p", { class: "unusual" }, explained(data.unusual[each] ?? each, each)));
    const said = make("p", { class: "text" }, row.speaker ? make("b", {}, row.speaker) : "", row.speaker && row.text ? ": " : "", row.text ?? "");
    const time = make("button", { type: "button", class: "play", disabled: !plays, "aria-label": `play from ${clock}` }, `${clock} `, make("span", { class: "note" }, `(${(row.end - row.start).toFixed(1)} s)`));
    const correct = make("button", { type: "button", class: "correct", "aria-expanded": "false", "aria-label": `correct the utterance at ${clock}` }, "correct");
    const sign = make("i", { "aria-hidden": "true" });
    return make("li", { class: "utterance", style: style(row) }, sign, time, make("p", {}, make("b", {}, name(row)), " ", probability(row)), said, correct, ...unusual, details(row));
  }

  const lost = (each) => make("li", { class: "left-out" }, `${short(each.start)} - ${short(each.end)} left out: ${each.reason}`);

  // The fields that correct an utterance.
  function form(row, isLast) {
    const options = [...data.classes, null].map((each) => make("option", { value: each ?? "", selected: each === row.emotion }, each ?? "? (none)"));
    const field = (label, control) => make("label", {}, `${label} `, control);
    const words = make("textarea", { name: "text", rows: 2 });
    words.value = row.text ?? "";
    const button = (action, text, off = false) => make("button", { type: "button", "data-action": action, disabled: off }, text);
    return make(
      "div", { class: "form", role: "group", "aria-label": "corrections" },
      field("Emotion", make("select", { name: "emotion" }, options)),
      field("Speaker", make("input", { name: "speaker", value: row.speaker ?? "", list: "speakers", autocomplete: "off" })),
      field("Words", words),
      make("p", {}, button("split", "split here"), button("merge", "merge with the next", isLast), button("close", "close")),
      make("p", { class: "note" }, "It is split where the player stands, or else in its middle; the words follow by their share."),
    );
  }

  return { make, short, strip, totals, utterance, lost, form };
}
