// The page of a server: sends recordings, follows their jobs and shows their timelines.
const element = (id) => document.getElementById(id);
const progress = element("progress");
const UNREACHED = "the server cannot be reached";
let chosen = []; // recordings: from a file, dropped or recorded
let tasks = []; // of all recordings that were sent in this visit
let active = []; // those that are not over
let cancelled = false;

function headers() {
  const token = element("token")?.value;
  return token ? { Authorization: `Bearer ${token}` } : {};
}

function tell(text, share) {
  element("status").textContent = text;
  progress.hidden = share === undefined;
  if (share === null) progress.removeAttribute("value");
  else progress.value = share ?? 0;
}

function fail(text) {
  element("error").textContent = [element("error").hidden ? "" : element("error").textContent, text].filter(Boolean).join(" ");
  element("error").hidden = false;
}

function busy(yes) {
  for (const button of document.querySelectorAll("#send, #microphone, #camera, #file")) button.disabled = yes;
  element("cancel").hidden = !yes;
  element("send").hidden = yes || !chosen.length;
  if (yes) element("cancel").focus({ preventScroll: true });
  if (yes) element("error").hidden = true;
}

function choose(files) {
  chosen = [...files];
  const size = chosen.reduce((sum, file) => sum + file.size, 0) / 1e6;
  tell(chosen.length ? `${chosen.length > 1 ? `${chosen.length} recordings` : chosen[0].name}, ${size.toFixed(1)} MB` : "");
  element("send").textContent = chosen.length > 1 ? `Label ${chosen.length} recordings` : "Label it";
  element("send").hidden = !chosen.length;
  element("drop").classList.toggle("chosen", chosen.length > 0);
  element("error").hidden = true;
}

// The transcript of a recording: a file of its name, or what was given for a single one.
function transcriptOf(file) {
  const files = [...(element("transcript-file")?.files ?? [])];
  const stem = (name) => name.replace(/\.[^.]*$/, "").toLowerCase();
  if (chosen.length === 1) return files[0] ?? (element("transcript")?.value.trim() ? element("transcript").value : null);
  return files.find((each) => stem(each.name) === stem(file.name) || stem(each.name) === file.name.toLowerCase()) ?? null;
}

// Why what was chosen cannot be sent.
function fault() {
  if (!chosen.length) return "Choose, drop or record something first.";
  const files = [...(element("transcript-file")?.files ?? [])];
  const words = element("transcript")?.value.trim();
  if (files.length && words) return "Expected a transcript as text or as a file, found both.";
  if (chosen.length > 1 && words) return `Expected one recording with a transcript as text, found ${chosen.length}; name transcript files as they are.`;
  if (chosen.length === 1 && files.length > 1) return `Expected one transcript of ${chosen[0].name}, found ${files.length}.`;
  const used = new Set(chosen.map(transcriptOf));
  const left = files.find((each) => !used.has(each));
  if (left) return `Expected transcripts named as the recordings, found ${left.name}.`;
  const most = Number(element("form").dataset.most);
  const large = chosen.find((each) => each.size > most);
  return large ? `${large.name}: expected at most ${most / 1e6} MB, found ${(large.size / 1e6).toFixed(0)} MB.` : null;
}

function form(task) {
  const data = new FormData();
  for (const name of ["speakers", "track", "channel"]) data.append(name, element(name).value);
  if (task.transcript) data.append("transcript", ...(task.transcript.name ? [task.transcript, task.transcript.name] : [task.transcript]));
  data.append("file", task.file, task.file.name);
  return data;
}

// Say how far a recording is: in its row, and below the form where it is the only one.
function note(task, text, share) {
  task.state.textContent = text + (share ? ` ${Math.round(100 * share)} %` : "");
  if (active.length === 1 && active[0] === task) tell(task.several ? `${task.file.name}: ${text}` : text, share);
  else if (active.length) tell(`${active.filter((each) => each.over).length} of ${active.length} recordings done`, active.filter((each) => each.over).length / active.length);
}

// XMLHttpRequest, since fetch does not report the progress of an upload.
function send(task) {
  return new Promise((resolve, reject) => {
    if (cancelled) throw new Error("cancelled");
    const upload = (task.upload = new XMLHttpRequest());
    upload.open("POST", "jobs");
    for (const [name, value] of Object.entries(headers())) upload.setRequestHeader(name, value);
    upload.upload.onprogress = ({ loaded, total }) => note(task, "Uploading", loaded / total);
    upload.onload = () => {
      let found = {};
      try {
        found = JSON.parse(upload.responseText);
      } catch {} // a proxy's error need not be JSON
      if (upload.status === 202) resolve((task.job = found.id));
      else reject(new Error(found.error ?? `the server answered ${upload.status}`));
    };
    upload.onerror = () => reject(new Error("the server ended the upload, or cannot be reached"));
    upload.onabort = () => reject(new Error("cancelled"));
    upload.onloadend = () => (task.upload = null);
    upload.send(form(task));
  });
}

async function ask(path, method = "GET") {
  const answer = await fetch(path, { method, headers: headers() }).catch(() => {
    throw new Error(UNREACHED);
  });
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error ?? `the server answered ${answer.status}`);
  return answer;
}

async function wait(task) {
  for (let failures = 0; ; ) {
    let found;
    try {
      found = await (await ask(`jobs/${task.job}`)).json();
      failures = 0;
    } catch (error) {
      if (cancelled || error.message !== UNREACHED || ++failures > 20) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000));
      continue;
    }
    if (cancelled) throw new Error("cancelled");
    if (found.state === "waiting") note(task, `In the queue: ${found.before} before it`, null);
    else if (found.state === "running") note(task, found.progress === null ? "Segmenting" : "Labelling", found.progress);
    else if (found.state === "done") return found;
    else throw new Error(found.error ?? found.state);
    await new Promise((resolve) => setTimeout(resolve, 400));
  }
}

// Fetch a result as a section of its own, which keeps its corrections while another one is shown.
async function receive(task, { name, warnings }) {
  const page = new DOMParser().parseFromString(await (await ask(`jobs/${task.job}/timeline`)).text(), "text/html");
  const title = document.createElement("h2");
  title.textContent = name;
  const lines = warnings.map((warning) => {
    const line = document.createElement("p");
    line.className = "warning";
    line.textContent = warning;
    return line;
  });
  task.section = document.createElement("div");
  task.section.append(title, ...lines, ...page.head.childNodes, ...page.body.childNodes);
  task.section.querySelector("#player").src = URL.createObjectURL(task.file);
  showTimeline(task.section);
}

function show(task) {
  const result = element("result");
  result.querySelector("#player")?.pause();
  result.replaceChildren(task.section);
  result.hidden = false;
  document.body.classList.add("labelled");
  for (const each of tasks) each.button.setAttribute("aria-pressed", each === task);
  result.focus({ preventScroll: true });
  result.scrollIntoView();
}

function enqueue(file) {
  const task = { file, transcript: transcriptOf(file), several: chosen.length > 1, over: false };
  const item = document.createElement("li");
  task.button = document.createElement("button");
  task.state = document.createElement("span");
  task.button.type = "button";
  task.button.disabled = true;
  task.button.textContent = file.name;
  task.state.textContent = "waits";
  task.button.addEventListener("click", () => show(task));
  item.append(task.button, task.state);
  element("files").append(item);
  return task;
}

async function follow(task) {
  const found = await wait(task);
  await receive(task, found);
  task.button.disabled = false;
  task.over = true;
  note(task, "done", 0);
  if (!active.some((each) => each.shown)) {
    task.shown = true;
    show(task);
  }
}

async function label(event) {
  event.preventDefault();
  element("error").hidden = true;
  const wrong = fault();
  if (wrong) return fail(wrong);
  active = chosen.map(enqueue);
  tasks = [...tasks, ...active];
  element("files").hidden = tasks.length < 2;
  cancelled = false;
  busy(true);
  tell("Uploading", 0);
  const failures = [];
  let uploaded = Promise.resolve(); // one after the other
  await Promise.all(active.map(async (task) => {
    const sent = uploaded.then(() => send(task));
    uploaded = sent.catch(() => {});
    try {
      await sent;
      await follow(task);
    } catch (error) {
      task.over = true;
      note(task, cancelled ? "cancelled" : error.message, 0);
      failures.push(error.message);
    } finally {
      await forget(task);
    }
  }));
  const several = active.length > 1;
  active = [];
  choose([]);
  for (const name of failures.length ? ["file"] : ["file", "transcript", "transcript-file"]) if (element(name)) element(name).value = "";
  busy(false);
  tell(cancelled ? "Cancelled." : failures.length && !several ? "" : failures.length ? `${failures.length} could not be labelled.` : "Done.");
  if (!cancelled) failures.forEach(fail);
}

async function forget(task) {
  task.upload?.abort();
  const id = task.job;
  task.job = null;
  if (id) await ask(`jobs/${id}`, "DELETE").catch(() => {});
}

async function record(wanted) {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia(wanted);
  } catch (error) {
    return fail(`Nothing can be recorded: ${error.message}`);
  }
  element("error").hidden = true;
  const parts = [];
  const recorder = new MediaRecorder(stream);
  const began = Date.now();
  const clock = setInterval(() => tell(`Recording: ${Math.round((Date.now() - began) / 1000)} s`), 250);
  const preview = element("preview");
  const buttons = document.querySelectorAll("#microphone, #camera, #send");
  for (const button of buttons) button.disabled = true;
  if (wanted.video) {
    preview.hidden = false;
    preview.srcObject = stream;
    preview.play().catch(() => {});
  }
  recorder.ondataavailable = ({ data }) => parts.push(data);
  recorder.onstop = () => {
    clearInterval(clock);
    for (const track of stream.getTracks()) track.stop();
    preview.hidden = true;
    preview.srcObject = null;
    element("stop").hidden = true;
    for (const button of buttons) button.disabled = false;
    const type = recorder.mimeType.split(";")[0];
    element("file").value = "";
    choose([new File(parts, `recording.${type.split("/")[1] || "webm"}`, { type })]);
    element("send").focus();
  };
  element("stop").hidden = false;
  element("stop").onclick = () => recorder.stop();
  element("stop").focus();
  recorder.start(1000);
}

element("form").addEventListener("submit", label);
element("cancel").addEventListener("click", () => {
  cancelled = true;
  active.forEach(forget);
});
element("file").addEventListener("change", () => choose(element("file").files));
element("microphone").addEventListener("click", () => record({ audio: true }));
element("camera")?.addEventListener("click", () => record({ audio: true, video: true }));
if (!navigator.mediaDevices || !window.MediaRecorder) {
  element("recorders").textContent = "Recording needs https, or a server on this machine.";
}
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  window.addEventListener(name, (event) => {
    event.preventDefault();
    element("drop").classList.toggle("over", name === "dragenter" || name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length && !active.length) {
      element("file").value = "";
      choose(event.dataTransfer.files);
    }
  });
}
window.addEventListener("beforeunload", (event) => {
  if (active.length) event.preventDefault(); // the browser asks: leaving cancels the work
});
window.addEventListener("pagehide", () => {
  for (const { job } of active) if (job) fetch(`jobs/${job}`, { method: "DELETE", headers: headers(), keepalive: true });
});
