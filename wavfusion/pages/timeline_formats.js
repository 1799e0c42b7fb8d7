"use strict";
// Predictions as text, after corrections on the page: what `predict --format` writes, by wavfusion/prediction/timeline.py.
function timelineFormats(data, rows) {
  const UNSURE = "?";
  const BLANK = /[\t\n\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/u;
  const TAG = /<\/?(?:[bius]|em|strong|ruby|rt|br)(?:\.[^\s<>]*)?\s*\/?>|<\/?(?:font|span|lang|c|v)(?:[.\s][^<>]*)?>|<(?:\d{1,5}:)?\d{1,2}:\d{1,2}[.,]\d{1,3}>|\{\\[a-zA-Z0-9][^{}]*\}/i;
  const file = rows[0]?.file ?? "";
  const name = data.file;

  const legal = (text) => text.replace(/[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]/gu, "");
  const line = (text) => legal(text ?? "").split(BLANK).filter(Boolean).join(" ");
  const lines = (text) => legal(text ?? "").split(/\r\n|[\n\r\x85\u2028\u2029]/u).filter((each) => line(each)).map((each) => each + "\n").join("");
  const markup = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const attribute = (text) => markup(text).replaceAll('"', "&quot;").replaceAll("\r", "&#13;").replaceAll("\n", "&#10;").replaceAll("\t", "&#09;");
  const cue = (text) => markup(text).replaceAll("{\\", "&#123;\\");
  const share = (row) => (!row.emotion ? UNSURE : row.corrected ? `${row.emotion}, corrected` : `${row.emotion} ${(100 * row.probability).toFixed(0)}%`);

  function clock(seconds, point) {
    const all = Math.round(1000 * seconds);
    const two = (number) => String(Math.floor(number)).padStart(2, "0");
    return `${two(all / 3600000)}:${two((all / 60000) % 60)}:${two((all / 1000) % 60)}${point}${String(all % 1000).padStart(3, "0")}`;
  }

  // Entities only where a part would be taken for markup, as many players know none.
  function plain(text) {
    const box = document.createElement("textarea");
    box.innerHTML = text.replaceAll("<", "&lt;");
    return TAG.test(text) || text.includes("->") || box.value !== text ? cue(text) : text;
  }

  function srt() {
    const cues = rows.map((row, number) => {
      const title = (row.speaker ? `${plain(line(row.speaker))}: ` : "") + `<i>[${share(row)}]</i>`;
      return `${number + 1}\n${clock(row.start, ",")} --> ${clock(row.end, ",")}\n${title}\n${plain(lines(row.text))}`;
    });
    return cues.join("\n");
  }

  function vtt() {
    const cues = rows.map((row) => {
      const voice = row.speaker ? `<v ${cue(line(row.speaker))}>` : "";
      const title = `<c.emotion>${cue(share(row))}</c>`;
      return `${clock(row.start, ".")} --> ${clock(row.end, ".")}\n${voice}${title}\n${cue(lines(row.text))}`;
    });
    return ["WEBVTT\n", ...(data.about ? [`NOTE ${lines(line(data.about))}`] : []), ...cues].join("\n");
  }

  // Tiers of emotions and text by speaker; overlapping utterances of one speaker go into further tiers.
  function tiers() {
    const lanes = new Map();
    for (const row of [...rows].sort((a, b) => a.start - b.start || a.end - b.end)) {
      const speaker = line(row.speaker);
      const key = (number) => JSON.stringify([speaker, number]);
      let number = 0;
      while (lanes.has(key(number)) && lanes.get(key(number)).at(-1).end > row.start) number += 1;
      lanes.set(key(number), [...(lanes.get(key(number)) ?? []), row]);
    }
    const found = [];
    for (const [key, lane] of lanes) {
      const [speaker, number] = JSON.parse(key);
      const of = (number ? ` ${number + 1}` : "") + (speaker ? ` of ${speaker}` : "");
      found.push([`emotion${of}`, lane.map((row) => [row.start, row.end, row.emotion || UNSURE])]);
      const texts = lane.filter((row) => line(row.text)).map((row) => [row.start, row.end, legal(row.text)]);
      if (texts.length) found.push([`words${of}`, texts]);
    }
    return found;
  }

  function textgrid() {
    const end = Math.max(0, ...rows.map((row) => row.end));
    const quoted = (text) => `"${text.replaceAll('"', '""')}"`;
    const found = tiers();
    const written = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", `xmax = ${end.toFixed(3)}`];
    written.push("tiers? <exists>", `size = ${found.length}`, "item []:");
    found.forEach(([tier, spans], number) => {
      const filled = []; // gaps are intervals, too
      let at = 0;
      for (const [start, stop, text] of [...spans, [end, end, ""]]) {
        if (start.toFixed(3) - at.toFixed(3) > 0) filled.push([at, start, ""]);
        filled.push([start, stop, text]);
        at = stop;
      }
      filled.pop();
      written.push(`    item [${number + 1}]:`, '        class = "IntervalTier"', `        name = ${quoted(tier)}`);
      written.push("        xmin = 0", `        xmax = ${end.toFixed(3)}`, `        intervals: size = ${filled.length}`);
      filled.forEach(([start, stop, text], i) => {
        written.push(`        intervals [${i + 1}]:`, `            xmin = ${start.toFixed(3)}`);
        written.push(`            xmax = ${stop.toFixed(3)}`, `            text = ${quoted(text)}`);
      });
    });
    return written.join("\n") + "\n";
  }

  function element(depth, tag, attributes, content) {
    const pad = "  ".repeat(depth);
    const open = `${pad}<${tag}${Object.entries(attributes).map(([key, value]) => ` ${key}="${attribute(value)}"`).join("")}`;
    if (Array.isArray(content) && content.length) return `${open}>\n${content.join("\n")}\n${pad}</${tag}>`;
    return content?.length ? `${open}>${markup(content)}</${tag}>` : `${open} />`;
  }

  function eaf() {
    const slots = [];
    const written = tiers().map(([tier, spans]) => {
      const annotations = spans.map(([start, stop, text]) => {
        const times = [start, stop].map((seconds) => {
          slots.push(element(2, "TIME_SLOT", { TIME_SLOT_ID: `ts${slots.length + 1}`, TIME_VALUE: String(Math.round(1000 * seconds)) }));
          return `ts${slots.length}`;
        });
        const about = { ANNOTATION_ID: `a${slots.length / 2}`, TIME_SLOT_REF1: times[0], TIME_SLOT_REF2: times[1] };
        const value = element(4, "ANNOTATION_VALUE", {}, legal(text));
        return element(2, "ANNOTATION", {}, [element(3, "ALIGNABLE_ANNOTATION", about, [value])]);
      });
      return element(1, "TIER", { LINGUISTIC_TYPE_REF: "default-lt", TIER_ID: legal(tier) }, annotations);
    });
    const header = [element(2, "MEDIA_DESCRIPTOR", { MEDIA_URL: legal(file), MIME_TYPE: "unknown" })];
    if (data.about) header.push(element(2, "PROPERTY", { NAME: "model" }, line(data.about)));
    const root = {
      "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance", AUTHOR: "", DATE: "1970-01-01T00:00:00+00:00", FORMAT: "3.0",
      VERSION: "3.0", "xsi:noNamespaceSchemaLocation": "http://www.mpi.nl/tools/elan/EAFv3.0.xsd",
    };
    const kind = { GRAPHIC_REFERENCES: "false", LINGUISTIC_TYPE_ID: "default-lt", TIME_ALIGNABLE: "true" };
    const parts = [
      element(1, "HEADER", { MEDIA_FILE: "", TIME_UNITS: "milliseconds" }, header), element(1, "TIME_ORDER", {}, slots),
      ...written, element(1, "LINGUISTIC_TYPE", kind),
    ];
    return `<?xml version='1.0' encoding='utf-8'?>\n${element(0, "ANNOTATION_DOCUMENT", root, parts)}\n`;
  }

  const json = () => JSON.stringify(rows.map((row) => ({ ...row, model: data.model })), null, 2) + "\n";

  function table(records) {
    const cell = (value) => (/[",\n\r]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
    return records.map((cells) => cells.map((each) => cell(String(each ?? ""))).join(",") + "\n").join("");
  }

  function csv() {
    const corrected = rows.some((row) => row.corrected);
    const fields = ["file", "start", "end", "speaker", "text", "emotion", "probability", "modalities", "text_share"];
    const modalities = ["audio", "text", "video"];
    const head = [...fields, ...data.classes.map((each) => `p_${each}`), ...modalities.map((each) => `contribution_${each}`)];
    const records = rows.map((row) => {
      const clean = { ...row, speaker: row.speaker && legal(row.speaker), text: row.text && legal(row.text), modalities: row.modalities.join("+") };
      const numbers = [...data.classes.map((each) => row.probabilities[each]), ...modalities.map((each) => row.contribution?.[each])];
      const model = data.model ? data.cells : data.columns.map(() => "");
      const last = corrected ? [row.corrected ? "True" : ""] : [];
      return [...fields.map((each) => clean[each]), ...numbers, row.warnings.join("; "), ...model, row.language, ...last];
    });
    return table([[...head, "warnings", ...data.columns, "language", ...(corrected ? ["corrected"] : [])], ...records]);
  }

  // What `prepare table` reads; an utterance without an emotion is nothing to train on.
  function training() {
    const used = [...rows].sort((a, b) => a.start - b.start).filter((row) => row.emotion);
    const video = used.some((row) => row.modalities.includes("video"));
    const stem = line(name.replace(/\.[^.]*$/, ""));
    const head = ["id", "audio", ...(video ? ["video"] : []), "start", "end", "speaker", "text", "emotion", "dialogue", "index"];
    const records = used.map((row, number) => [
      `${stem}_${String(number + 1).padStart(4, "0")}`, name, ...(video ? [name] : []), row.start, row.end,
      line(row.speaker), line(row.text), row.emotion, stem, number,
    ]);
    return table([head, ...records]);
  }

  return {
    json: { title: "JSON", file: `${name}.json`, write: json }, csv: { title: "CSV", file: `${name}.csv`, write: csv },
    srt: { title: "SubRip", file: `${name}.srt`, write: srt }, vtt: { title: "WebVTT", file: `${name}.vtt`, write: vtt },
    textgrid: { title: "Praat TextGrid", file: `${name}.TextGrid`, write: textgrid },
    eaf: { title: "ELAN", file: `${name}.eaf`, write: eaf },
    training: { title: "table to train on", file: `${name}.table.csv`, write: training },
  };
}
