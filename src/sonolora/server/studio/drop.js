// Files from a drop or a dialog, folders included, and their way to a dataset.
import { html, useRef, useState } from "./lib.js";
import { upload } from "./api.js";
import { many } from "./ui.js";

const USED = /\.(wav|mp3|flac|ogg|aac|m4a|aiff?|aifc|caf|mp4|mov|mkv|webm|avi|m4v|txt|json|jsonl|csv|zip)$/i;
const HIDDEN = /(^|\/)(\.|__MACOSX)/;

async function walk(entry, path = "") {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ file, path: path + file.name }];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    // A reader gives at most a hundred entries at a time.
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) break;
    for (const one of some) found.push(...(await walk(one, `${path}${entry.name}/`)));
  }
  return found;
}

export async function filesOf(event) {
  const items = [...(event.dataTransfer?.items ?? [])].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (items.length) return (await Promise.all(items.map((item) => walk(item)))).flat();
  const files = event.dataTransfer?.files ?? event.target.files;
  return [...files].map((file) => ({ file, path: file.webkitRelativePath || file.name }));
}

// Uploads three at a time. Returns messages about skipped files and failures.
export async function send(dataset, found, onProgress) {
  const wanted = found.filter(({ path }) => USED.test(path) && !HIDDEN.test(path));
  const faults = [];
  const left = found.length - wanted.length;
  if (left) faults.push(`${many(left, "file")} skipped: no sound, video, caption or mask.`);
  const names = new Map();
  for (const one of wanted) {
    const key = one.file.name.toLowerCase();
    if (names.has(key)) faults.push(`${one.path} and ${names.get(key).path} have the same name: the first one was taken.`);
    else names.set(key, one);
  }
  const waiting = [...names.values()];
  const total = waiting.reduce((sum, { file }) => sum + file.size, 0) || 1;
  const sent = new Map();
  const tell = () => onProgress([...sent.values()].reduce((sum, size) => sum + size, 0) / total);
  const work = async () => {
    for (let one = waiting.shift(); one; one = waiting.shift()) {
      try {
        await upload(`datasets/${dataset}/files/${encodeURIComponent(one.file.name)}`, one.file, (share) => {
          sent.set(one, share * one.file.size);
          tell();
        });
      } catch (error) {
        faults.push(`${one.file.name}: ${error.message.replace(/^name: /, "")}`);
      }
      sent.set(one, one.file.size);
      tell();
    }
  };
  await Promise.all([work(), work(), work()]);
  return { count: names.size, faults };
}

export function DropZone({ onFiles, slim, busy, children }) {
  const [over, setOver] = useState(false);
  const files = useRef(null);
  const folder = useRef(null);
  const take = async (event) => {
    event.preventDefault();
    setOver(false);
    const found = await filesOf(event);
    if (found.length) onFiles(found);
    if (event.target.value) event.target.value = "";
  };
  return html`<div class=${`drop ${slim ? "slim" : ""} ${over ? "over" : ""}`} onDragOver=${(e) => { e.preventDefault(); setOver(true); }}
    onDragLeave=${() => setOver(false)} onDrop=${take}>
    ${children}
    <div class="row" style=${{ justifyContent: "center", marginTop: slim ? 0 : "0.75rem" }}>
      ${slim && html`<span>Drop more files here, or</span>`}
      <button type="button" class=${slim ? "small" : ""} disabled=${busy} onClick=${() => files.current.click()}>Choose files or a zip</button>
      <button type="button" class=${slim ? "small" : ""} disabled=${busy} onClick=${() => folder.current.click()}>Choose a folder</button>
    </div>
    <input ref=${files} class="hidden" type="file" multiple tabindex="-1" aria-label="Files or a zip" onChange=${take} />
    <input ref=${folder} class="hidden" type="file" multiple webkitdirectory tabindex="-1" aria-label="A folder" onChange=${take} />
  </div>`;
}
