"use strict";
// The browser of utterances. Data enter the page as text and attributes only, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const [form, list, count, more] = ["filters", "utterance-list", "count", "more"].map((id) => document.getElementById(id));
const PAGE = 50;
let rows = [];
let opened = null;

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const run = () => data.runs[Number(form.run.value)];
const percent = (permille) => `${(permille / 10).toFixed(1)} %`;

function fill(select, classes) {
  const before = select.value;
  select.replaceChildren(make("option", { value: "" }, "any"), ...classes.map((name, i) => make("option", { value: i }, name)));
  select.value = Number(before) < classes.length ? before : "";
}

function wanted([id, truth, predicted, , text]) {
  const search = form.text.value.trim().toLowerCase();
  const is = (select, value) => select.value === "" || Number(select.value) === value;
  return is(form.truth, truth) && is(form.predicted, predicted)
    && (form.outcome.value === "any" || (form.outcome.value === "right") === (truth === predicted))
    && (!search || `${id} ${text ?? ""}`.toLowerCase().includes(search));
}

function show() {
  const sure = ([, , predicted, p]) => p[predicted];
  const order = { sure: (a, b) => sure(b) - sure(a), unsure: (a, b) => sure(a) - sure(b) }[form.order.value];
  rows = run().rows.filter(wanted);
  if (order) rows.sort(order);
  list.replaceChildren();
  opened = null;
  grow();
  const chosen = [...form.querySelectorAll("select")].filter((select) => select.value !== "")
    .map((select) => `${select.parentElement.firstChild.textContent.trim()} ${select.selectedOptions[0].textContent}`);
  const search = form.text.value.trim() ? [`text “${form.text.value.trim()}”`] : [];
  count.textContent = `${rows.length.toLocaleString("en")} of ${run().rows.length.toLocaleString("en")} utterances: ${[...chosen, ...search].join(", ")}`;
}

function grow() {
  const from = list.children.length;
  list.append(...rows.slice(from, from + PAGE).map(item));
  more.hidden = list.children.length >= rows.length;
  return list.children[from];
}

function item(row) {
  const [id, truth, predicted, p, text, language] = row;
  const { classes } = run();
  const pair = truth === predicted ? `${classes[truth]}, predicted so` : `${classes[truth]}, predicted ${classes[predicted]}`;
  const shown = make("span", { class: "text" }, text ?? "");
  if (language) shown.lang = language;
  const button = make("button", { type: "button", "aria-expanded": "false" },
    make("span", { class: truth === predicted ? "right" : "wrong", "aria-hidden": "true" }, truth === predicted ? "✓" : "✗"),
    make("span", { class: "pair" }, `${pair} `), make("span", { class: "sure" }, `${percent(p[predicted])} `), shown, make("span", { class: "id" }, ` ${id}`));
  const element = make("li", {}, button);
  button.addEventListener("click", () => toggle(element, row));
  return element;
}

function close() {
  if (!opened) return;
  opened.lastChild.remove();
  opened.firstChild.setAttribute("aria-expanded", "false");
  opened = null;
}

function toggle(element, row) {
  const again = element === opened;
  close();
  if (again) return;
  opened = element;
  element.append(detail(row));
  element.firstChild.setAttribute("aria-expanded", "true");
}

function readable(name) {
  try {
    return decodeURIComponent(name);
  } catch {
    return name; // bytes that are no text
  }
}

function player([kind, number, start, end]) {
  const address = data.files[number];
  if (address === null) return make("p", { class: "note" }, `The ${kind} file is missing.`);
  const window = start === null && end === null ? "" : `#t=${start ?? 0}${end === null ? "" : `,${end}`}`;
  const element = make(kind, { src: address + window, controls: "", preload: "metadata", "aria-label": kind });
  element.addEventListener("error", () => {
    const file = make("a", { href: address }, readable(address.split("/").pop()));
    element.replaceWith(make("p", { class: "note" }, `This browser does not play the ${kind} file `, file, "."));
  });
  return element;
}

function detail([id, truth, predicted, p, , , speaker, media, share, parts]) {
  const { classes } = run();
  const notes = (i) => [i === truth ? "truth" : "", i === predicted ? "predicted" : ""].filter(Boolean).join(", ");
  const bars = classes.map((name, i) => make("li", {},
    make("span", {}, name), make("meter", { min: 0, max: 1000, value: p[i], "aria-hidden": "true" }),
    make("span", {}, `${percent(p[i])} ${notes(i)}`)));
  const found = make("div", { class: "detail" }, ...media.map(player), make("ul", { "aria-label": "probabilities" }, ...bars));
  const facts = [];
  if (speaker) facts.push(`Speaker ${speaker}.`);
  if (share !== null) facts.push(`Text weight ${percent(1000 * share)}, the rest video.`);
  if (parts.length) {
    const values = data.modalities.map((name, i) => parts[i] === null ? null : `${name} ${parts[i] < 0 ? "−" : "+"}${Math.abs(parts[i])}`);
    facts.push(`Contribution to ${classes[predicted]}, in nats: ${values.filter(Boolean).join(", ")}.`);
  }
  for (const other of data.runs.filter((each) => each !== run())) {
    const own = other.rows.find((each) => each[0] === id);
    if (own) facts.push(`${other.name}: ${other.classes[own[2]]}, ${percent(own[3][own[2]])}.`);
  }
  found.append(...facts.map((fact) => make("p", {}, fact)));
  return found;
}

function walk(event) {
  if (event.key === "Escape" && opened) {
    opened.firstChild.focus();
    close();
  }
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || event.target.tagName !== "BUTTON") return;
  const element = event.target.closest("li");
  const next = step > 0 ? element.nextElementSibling ?? grow() : element.previousElementSibling;
  if (next) next.firstChild.focus();
  event.preventDefault();
}

function choose(event) {
  const link = event.target.closest("a[data-truth]");
  if (!link) return;
  form.run.value = link.dataset.run;
  begin();
  form.truth.value = link.dataset.truth;
  form.predicted.value = link.dataset.predicted;
  form.outcome.value = "any";
  form.text.value = "";
  show();
}

function begin() {
  fill(form.truth, run().classes);
  fill(form.predicted, run().classes);
}

form.addEventListener("input", (event) => {
  if (event.target === form.run) begin();
  show();
});
form.addEventListener("submit", (event) => event.preventDefault());
list.addEventListener("keydown", walk);
more.addEventListener("click", () => grow().firstChild.focus());
document.addEventListener("click", choose);
form.hidden = false;
begin();
show();
