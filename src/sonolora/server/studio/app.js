// The page: who is logged in, where one is, and the frame around the views.
import { html, render, signal, useEffect, useState } from "./lib.js";
import { del, get, modes, online, post, session } from "./api.js";
import { DatasetList, DatasetView } from "./datasets.js";
import { QueueView } from "./queue.js";
import { KeysView } from "./keys.js";
import { RunList } from "./runs.js";
import { RunView } from "./run.js";
import { StartView } from "./start.js";
import { Compare } from "./listen.js";
import { Icon, Toasts, failed } from "./ui.js";


const place = signal(read());
function read() {
  return location.hash.replace(/^#\/?/, "").split("/").filter(Boolean).map(decodeURIComponent);
}
addEventListener("hashchange", () => {
  place.value = read();
  scrollTo(0, 0);
});

function Login({ used }) {
  const [key, setKey] = useState("");
  const [fault, setFault] = useState(used ? "This link was used before, or is too old. Log in with a key." : "");
  const submit = async (event) => {
    event.preventDefault();
    try {
      await post("session", { key });
      location.hash = "#/";
      load();
    } catch (error) {
      setFault(error.message);
    }
  };
  return html`<main class="login" id="main"><form class="panel stack" onSubmit=${submit}>
    <div class="row"><img src="studio/icon.svg" width="28" height="28" alt="" /><h1>Sonolora</h1></div>
    <p class="soft">The server prints a link at its start that logs you in on this machine. Anywhere else, use a key.</p>
    <div><label class="label" for="key">Key</label>
      <input id="key" type="password" autocomplete="current-password" value=${key} onInput=${(e) => setKey(e.currentTarget.value)} required />
      ${fault && html`<p class="fault" role="alert">${fault}</p>`}</div>
    <button class="main" type="submit">Log in</button>
    <p class="help">Keys are made on the server: <span class="mono">sonolora keys add NAME</span></p>
  </form></main>`;
}

async function load() {
  try {
    const found = await get("session");
    session.value = found.key ? found : null;
    if (!found.key) return;
    modes.value = await get("modes");
  } catch (error) {
    if (error.status === 401) session.value = null;
    else {
      failed(error);
      setTimeout(load, 2000);
    }
  }
}

const THEMES = { "": "system", light: "light", dark: "dark" };
function Theme() {
  const [theme, setTheme] = useState(document.documentElement.dataset.theme ?? "");
  const next = { "": "light", light: "dark", dark: "" }[theme];
  const change = () => {
    if (next) document.documentElement.dataset.theme = next;
    else delete document.documentElement.dataset.theme;
    if (next) localStorage.setItem("sonolora.theme", next);
    else localStorage.removeItem("sonolora.theme");
    setTheme(next);
  };
  return html`<button class="plain small" onClick=${change}><${Icon} name="moon" size=${16} /> Colours: ${THEMES[theme]}</button>`;
}

function View({ parts }) {
  const [first, second, third, fourth] = parts;
  if (first === "start") return html`<${StartView} key=${parts.join()} dataset=${second} from=${third} onward=${fourth === "continue"} />`;
  if (first === "runs" && second) return html`<${RunView} key=${second} id=${second} tab=${third ?? "progress"} />`;
  if (first === "runs") return html`<${RunList} />`;
  if (first === "compare") return html`<${Compare} key=${parts.join()} ids=${[second, third]} />`;
  if (first === "queue") return html`<${QueueView} />`;
  if (first === "keys") return html`<${KeysView} />`;
  if (first === "datasets" && second) return html`<${DatasetView} key=${second} id=${second} />`;
  return html`<${DatasetList} />`;
}

const LINKS = [
  ["datasets", "Datasets", "data"],
  ["runs", "Runs", "run"],
  ["queue", "Queue", "queue"],
  ["keys", "Keys", "key"],
];

function Foot() {
  const leave = async () => {
    await del("session").catch(failed);
    session.value = null;
  };
  return html`${!online.value && html`<span class="badge bad" role="status">no connection</span>`}
    <${Theme} />
    <span>Base <b>${session.value.base}</b> · ${session.value.version}</span>
    <span>Logged in as ${session.value.key.name}. <a href="#/" onClick=${(e) => { e.preventDefault(); leave(); }}>Log out</a></span>`;
}

function Page() {
  useEffect(() => void load(), []);
  const parts = place.value;
  if (session.value === null) return html`<${Login} used=${parts[1] === "used"} /><${Toasts} />`;
  if (!session.value || !modes.value) return html`<p class="starting">Loading…</p><${Toasts} />`;
  const here = { start: "datasets", compare: "runs" }[parts[0]] ?? parts[0] ?? "datasets";
  return html`<a class="skip" href="#main" onClick=${(e) => { e.preventDefault(); document.getElementById("main").focus(); }}>To the content</a>
  <div class="frame">
    <header class="side">
      <a class="brand" href="#/"><img src="studio/icon.svg" alt="" />Sonolora</a>
      <nav aria-label="Main">${LINKS.map(([to, label, icon]) => html`<a href=${`#/${to}`} aria-current=${here === to ? "page" : undefined}>
        <${Icon} name=${icon} />${label}</a>`)}</nav>
      <div class="foot"><${Foot} /></div>
    </header>
    <main id="main" tabindex="-1"><${View} parts=${parts} /><footer class="foot narrow"><${Foot} /></footer></main>
  </div><${Toasts} />`;
}

document.getElementById("app").replaceChildren();
render(html`<${Page} />`, document.getElementById("app"));
