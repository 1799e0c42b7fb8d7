"use strict";
// The timeline follows the player, and a click on the timeline moves the player.
function showTimeline() {
  const player = document.getElementById("player");
  const strip = document.getElementById("strip");
  const items = [...document.querySelectorAll("li.utterance")].map((element) => ({
    element, start: Number(element.dataset.start), end: Number(element.dataset.end),
  }));
  const labelled = Number(strip.dataset.length) || 1;
  let shown = labelled; // seconds that the strip spans: to the recording's end, where the player knows it
  let current = null;

  function span() {
    if (!Number.isFinite(player.duration)) return;
    shown = Math.max(labelled, player.duration);
    const { y, height } = strip.viewBox.baseVal;
    strip.setAttribute("viewBox", `0 ${y} ${(1000 * shown) / labelled} ${height}`);
  }

  function follow() {
    const at = player.currentTime;
    for (const edge of ["x1", "x2"]) document.getElementById("head").setAttribute(edge, (1000 * Math.min(shown, at)) / labelled);
    // Several may speak at once; the utterance that started last is shown.
    const now = items.filter(({ start, end }) => start <= at && at < end).at(-1)?.element ?? null;
    if (now === current) return;
    current?.removeAttribute("aria-current");
    now?.setAttribute("aria-current", "true");
    if (now && document.getElementById("follow").checked) now.scrollIntoView({ block: "nearest" });
    current = now;
  }

  function play(from) {
    player.currentTime = from;
    player.play().catch(() => {});
    follow();
  }

  if (player) {
    player.addEventListener("durationchange", span);
    span();
    player.addEventListener("timeupdate", follow);
    player.addEventListener("seeked", follow);
    player.addEventListener("error", () => { document.getElementById("unplayable").hidden = false; });
    for (const { element, start } of items) element.querySelector("button").addEventListener("click", () => play(start));
    strip.addEventListener("click", (event) => {
      const box = strip.getBoundingClientRect();
      play(((event.clientX - box.left) / box.width) * shown);
    });
  }

  const saved = JSON.parse(document.getElementById("saved").textContent);
  document.getElementById("saving").hidden = false;
  for (const button of document.querySelectorAll("#saving button")) {
    button.addEventListener("click", () => {
      const link = document.createElement("a");
      link.href = URL.createObjectURL(new Blob([saved[button.dataset.file]], { type: "application/octet-stream" }));
      link.download = button.dataset.file;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    });
  }
}

if (document.getElementById("utterances")) showTimeline();
