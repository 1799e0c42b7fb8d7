// The page of a server: sends a recording, follows its job and shows its timeline.
const element = (id) => document.getElementById(id);
const progress = element("progress");
const UNREACHED = "the server cannot be reached";
let recording = null; // chosen, dropped or recorded
let job = null; // its id at the server
let upload = null; // the running request
let cancelled = false;
let address = null; // of the recording in the player

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
  tell("");
  element("error").textContent = text;
  element("error").hidden = false;
}

function busy(yes) {
  for (const button of document.querySelectorAll("#send, #microphone, #camera")) button.disabled = yes;
  element("cancel").hidden = !yes;
  element(yes ? "cancel" : "send").focus({ preventScroll: true });
  if (yes) element("error").hidden = true;
}

function choose(file) {
  recording = file;
  tell(file ? `${file.name}, ${(file.size / 1e6).toFixed(1)} MB` : "");
}

function form(sent) {
  const data = new FormData();
  for (const name of ["speakers", "track", "channel"]) data.append(name, element(name).value);
  const timed = element("transcript-file")?.files[0];
  if (timed) data.append("transcript", timed, timed.name);
  else if (element("transcript")?.value.trim()) data.append("transcript", element("transcript").value);
  data.append("file", sent, sent.name);
  return data;
}

// XMLHttpRequest, since fetch does not report the progress of an upload.
function send(sent) {
  return new Promise((resolve, reject) => {
    upload = new XMLHttpRequest();
    upload.open("POST", "jobs");
    for (const [name, value] of Object.entries(headers())) upload.setRequestHeader(name, value);
    upload.upload.onprogress = ({ loaded, total }) => tell("Uploading", loaded / total);
    upload.onload = () => {
      let found = {};
      try {
        found = JSON.parse(upload.responseText);
      } catch {} // a proxy's error need not be JSON
      if (upload.status === 202) resolve(found.id);
      else reject(new Error(found.error ?? `the server answered ${upload.status}`));
    };
    upload.onerror = () => reject(new Error("the server ended the upload, or cannot be reached"));
    upload.onabort = () => reject(new Error("cancelled"));
    upload.send(form(sent));
  });
}

async function ask(path, method = "GET") {
  const answer = await fetch(path, { method, headers: headers() }).catch(() => {
    throw new Error(UNREACHED);
  });
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error ?? `the server answered ${answer.status}`);
  return answer;
}

async function wait() {
  for (let failures = 0; ; ) {
    let found;
    try {
      found = await (await ask(`jobs/${job}`)).json();
      failures = 0;
    } catch (error) {
      if (cancelled || error.message !== UNREACHED || ++failures > 20) throw error;
      await new Promise((resolve) => setTimeout(resolve, 1000));
      continue;
    }
    if (cancelled) throw new Error("cancelled");
    if (found.state === "waiting") tell(`In the queue: ${found.before} before it`, null);
    else if (found.state === "running") tell(found.progress === null ? "Segmenting" : "Labelling", found.progress);
    else if (found.state === "done") return found;
    else throw new Error(found.error ?? found.state);
    await new Promise((resolve) => setTimeout(resolve, 400));
  }
}

async function present({ name, warnings }, sent) {
  const page = new DOMParser().parseFromString(await (await ask(`jobs/${job}/timeline`)).text(), "text/html");
  const title = document.createElement("h2");
  title.textContent = name;
  const lines = warnings.map((warning) => {
    const line = document.createElement("p");
    line.className = "warning";
    line.textContent = warning;
    return line;
  });
  const result = element("result");
  const timeline = document.createElement("div");
  timeline.append(title, ...lines, ...page.head.childNodes, ...page.body.childNodes);
  result.replaceChildren(timeline);
  result.hidden = false;
  if (address) URL.revokeObjectURL(address);
  address = URL.createObjectURL(sent);
  element("player").src = address;
  showTimeline(timeline);
  result.focus({ preventScroll: true });
  result.scrollIntoView();
}

async function label(event) {
  event.preventDefault();
  if (!recording) return fail("Choose, drop or record something first.");
  if (element("transcript-file")?.files[0] && element("transcript").value.trim()) return fail("Expected a transcript as text or as a file, found both.");
  const most = Number(element("form").dataset.most);
  if (recording.size > most) return fail(`Expected at most ${most / 1e6} MB, found ${(recording.size / 1e6).toFixed(0)} MB.`);
  const sent = recording;
  busy(true);
  cancelled = false;
  tell("Uploading", 0);
  try {
    job = await send(sent);
    upload = null;
    const found = await wait();
    busy(false);
    await present(found, sent);
    tell("Done.");
  } catch (error) {
    busy(false);
    if (cancelled) tell("Cancelled.");
    else fail(error.message);
  } finally {
    await forget();
  }
}

async function forget() {
  upload?.abort();
  upload = null;
  const id = job;
  job = null;
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
    choose(new File(parts, `recording.${type.split("/")[1] || "webm"}`, { type }));
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
  forget();
});
element("file").addEventListener("change", () => choose(element("file").files[0] ?? null));
element("microphone").addEventListener("click", () => record({ audio: true }));
element("camera")?.addEventListener("click", () => record({ audio: true, video: true }));
if (!navigator.mediaDevices || !window.MediaRecorder) {
  element("recorders").textContent = "Recording needs https, or a server on this machine.";
}
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  window.addEventListener(name, (event) => {
    event.preventDefault();
    element("drop").classList.toggle("over", name === "dragenter" || name === "dragover");
    if (name === "drop" && event.dataTransfer.files.length) {
      element("file").value = "";
      choose(event.dataTransfer.files[0]);
    }
  });
}
window.addEventListener("beforeunload", (event) => {
  if (job || upload) event.preventDefault(); // the browser asks: leaving cancels the work
});
window.addEventListener("pagehide", () => {
  if (job) fetch(`jobs/${job}`, { method: "DELETE", headers: headers(), keepalive: true });
});
