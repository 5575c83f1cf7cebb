// Data: dropped, looked at, captioned, marked, checked.
import { html, useEffect, useMemo, useRef, useState } from "./lib.js";
import { del, get, modes, otherOwner, patch, post, put } from "./api.js";
import { DropZone, send } from "./drop.js";
import { faultOf } from "./fields.js";
import { MaskEditor } from "./mask.js";
import { Slicer } from "./slicer.js";
import { setGroup } from "./player.js";
import { Sound, forgetShape } from "./sound.js";
import { Dialog, Icon, Progress, ago, failed, keep, kept, later, many, seconds, toast } from "./ui.js";

export function ModeTiles({ value, onChange }) {
  return html`<div class="tiles" role="radiogroup" aria-label="Mode">${modes.value.modes.map((mode) => html`
    <button type="button" class="tile" role="radio" aria-checked=${value === mode.name ? "true" : "false"} onClick=${() => onChange(mode.name)}>
      <b>${mode.title}</b><span class="small soft">${mode.subtitle}</span></button>`)}</div>`;
}

export function DatasetList() {
  const [list, setList] = useState(null);
  const [mode, setMode] = useState(kept("mode", "t2a"));
  const [progress, setProgress] = useState(null);
  useEffect(() => void get("datasets").then((data) => setList(data.datasets), failed), []);
  const choose = (name) => {
    setMode(name);
    keep("mode", name);
  };
  const take = async (found) => {
    const first = found[0].path.split("/")[0].replace(/\.[^.]+$/, "");
    try {
      setProgress(0);
      const made = await post("datasets", { name: first || "Sounds", mode });
      const { faults } = await send(made.id, found, setProgress);
      faults.slice(0, 3).forEach(toast);
      location.hash = `#/datasets/${made.id}`;
    } catch (error) {
      failed(error);
      setProgress(null);
    }
  };
  const current = modes.value.modes.find((one) => one.name === mode);
  return html`<div class="stack" style=${{ gap: "1.75rem" }}>
    <div class="head"><div class="grow"><h1>What should it learn?</h1><p>Choose a mode, then drop the sounds to learn from.</p></div></div>
    <${ModeTiles} value=${mode} onChange=${choose} />
    <${DropZone} onFiles=${take} busy=${progress !== null}>
      ${progress === null
        ? html`<h2>Drop a folder, files or a zip</h2><p>${WANTED[mode] ?? WANTED.t2a}</p>`
        : html`<h2>Uploading</h2><div style=${{ maxWidth: "24rem", margin: "0.75rem auto" }}><${Progress} step=${progress} steps=${1} label="Upload" /></div>`}
    <//>
    <section class="stack" aria-label="Datasets"><h2>Datasets</h2>
      ${list === null ? html`<p class="soft">Loading…</p>` : list.length === 0
        ? html`<p class="soft">None yet. What you drop above is kept on this server and can be used again.</p>`
        : html`<div class="tiles">${list.map((one) => html`<a class="tile" href=${`#/datasets/${one.id}`} key=${one.id}>
            <b>${one.name}</b><span class="small soft">${modes.value.modes.find((m) => m.name === one.mode)?.title} · ${many(one.clips, "clip")} · ${ago(one.changed)}${otherOwner(one) && ` · ${otherOwner(one)}`}</span></a>`)}</div>`}
    </section>
    <p class="hidden">${current?.summary}</p>
  </div>`;
}

const WANTED = {
  t2a: "Sounds, each with a .txt caption of the same name. Captions can be written here as well.",
  a2a: "Pairs: name_start with the sound before, name_end with the sound after, and name.txt.",
  v2a: "Videos with their sound, each with a .txt caption of the same name.",
  "audio-inpaint": "Sounds with captions. What is to be regenerated is marked here, or comes as name_mask.json.",
  "audio-extend-suffix": "Sounds whose beginning is to be invented. Each with a .txt caption of the same name.",
  "audio-extend-prefix": "Sounds whose continuation is to be invented. Each with a .txt caption of the same name.",
};

const PAGE = 60;
const STATUS = { used: ["good", "used"], fitted: ["good", "fitted"], skipped: ["bad", "skipped"], ignored: ["", "ignored"] };

// Fields of the request that decide how long a clip is, in their words here.
const LENGTHS = { audio_duration_seconds: "Seconds of a training clip", conditioning_seconds: "Seconds of it that are given",
  number_of_frames: "Frames of a training clip", frame_rate: "Frames a second" };
// Fields that have no effect on the data.
const NOT_OF_DATA = /^(number_of_steps|rank|learning_rate|stg_scale|validation_.*)$/;
const fieldsOf = (id) => Object.fromEntries(Object.entries(formOf(id).fields).filter(([name, value]) => value !== undefined && !NOT_OF_DATA.test(name)).sort());

export const formOf = (id) => kept(`form.${id}`, { fields: {}, settings: {} });

export function DatasetView({ id }) {
  const [data, setData] = useState(null);
  const [gone, setGone] = useState(false);
  const [progress, setProgress] = useState(null);
  const [checking, setChecking] = useState(false);
  const [filter, setFilter] = useState("all");
  const [order, setOrder] = useState("name");
  const [search, setSearch] = useState("");
  const [editing, setEditing] = useState(null); // the clip whose mask is drawn
  const [slicing, setSlicing] = useState(null);
  const [replacing, setReplacing] = useState(false);
  const [form, setForm] = useState(formOf(id));
  const [count, setCount] = useState(PAGE); // of clips that are drawn; more are as one scrolls
  const more = useRef(null);
  const running = useRef(null);

  const load = () => get(`datasets/${id}`).then(setData, (error) => (error.status === 404 ? setGone(true) : failed(error)));
  useEffect(() => {
    load();
    const lengths = setInterval(() => document.hidden || load(), 20000);
    return () => {
      clearInterval(lengths);
      running.current?.abort();
    };
  }, [id]);

  const check = async () => {
    running.current?.abort();
    const mine = (running.current = new AbortController());
    setChecking(true);
    try {
      await post(`datasets/${id}/check`, { fields: fieldsOf(id) }, { signal: mine.signal });
      await load();
    } catch (error) {
      if (!mine.signal.aborted) failed(error);
    }
    if (running.current === mine) setChecking(false);
  };
  const checkSoon = useMemo(() => later(1500, check), [id]);
  useEffect(() => {
    if (data && data.clips.length && !isCurrent(data) && !checking) checkSoon();
    return checkSoon.cancel;
  }, [data?.revision, data?.mode]);

  useEffect(() => {
    if (!more.current) return undefined;
    const watcher = new IntersectionObserver(([entry]) => entry.isIntersecting && setCount((now) => now + PAGE), { rootMargin: "1500px" });
    watcher.observe(more.current);
    return () => watcher.disconnect();
  }, [count, filter, search, order, data?.clips.length]);

  if (gone) return html`<p class="note bad">There is no such dataset any more. <a href="#/">All datasets</a></p>`;
  if (!data) return html`<p class="soft">Loading…</p>`;
  const mode = modes.value.modes.find((one) => one.name === data.mode);

  const take = async (found) => {
    setProgress(0);
    const { count, faults } = await send(id, found, setProgress);
    setProgress(null);
    faults.slice(0, 3).forEach(toast);
    for (const { file } of found) forgetShape(address(id, file.name, "shape"));
    if (count) await load();
  };
  const change = (changes) => patch(`datasets/${id}`, changes).then(setData, failed);
  const caption = async (clip, text) => {
    try {
      const { revision } = await put(`datasets/${id}/captions`, { captions: { [clip]: text } });
      setData((now) => ({ ...now, revision, check: now.check && { ...now.check, current: false },
        clips: now.clips.map((one) => (one.name === clip ? { ...one, caption: text } : one)) }));
    } catch (error) {
      failed(error);
    }
  };
  const setLength = (name, value) => {
    const next = { ...form, fields: { ...form.fields, [name]: value === "" ? undefined : Number.isNaN(Number(value)) ? value : Number(value) } };
    setForm(next);
    keep(`form.${id}`, { ...formOf(id), fields: next.fields });
    checkSoon();
  };
  const remove = (clip) => del(`datasets/${id}/clips/${encodeURIComponent(clip)}`).then(setData, failed);
  const removeAll = async () => {
    if (!confirm(`Delete the dataset "${data.name}" with its files? Runs keep their own copy.`)) return;
    await del(`datasets/${id}`).catch(failed);
    location.hash = "#/";
  };

  const shown = data.clips.filter((clip) => matches(clip, filter) && (!search ||
    `${clip.name} ${clip.caption}`.toLowerCase().includes(search.toLowerCase()))).sort(ORDERS[order]);
  const usable = isCurrent(data) ? data.check.clips : null;
  return html`<div>
    <div class="head">
      <div class="grow"><h1><${Editable} value=${data.name} label="Name of the dataset" onChange=${(name) => change({ name })} /></h1>
        <p>${many(data.clips.length, data.video ? "video" : mode.reference ? "pair" : "clip")}
          ${usable !== null && html` · <b>${usable}</b> will be trained on`}${totalSeconds(data.clips)}</p></div>
      <a class="button" href=${`api/datasets/${id}/zip`} download><${Icon} name="down" /> Zip</a>
      <button class="danger icon" aria-label="Delete the dataset" title="Delete the dataset" onClick=${removeAll}><${Icon} name="trash" /></button>
      <a class="button main" href=${`#/start/${id}`} aria-disabled=${data.clips.length === 0}>Train on this <${Icon} name="start" /></a>
    </div>
    <div class="stack">
      <div class="panel fields">
        <div><label class="label" for="mode">Mode</label><select id="mode" value=${data.mode} onChange=${(e) => change({ mode: e.currentTarget.value })}>
          ${modes.value.modes.map((one) => html`<option value=${one.name}>${one.title}</option>`)}</select></div>
        <div><label class="label" for="trigger">Trigger phrase</label><${Committed} id="trigger" value=${data.trigger_phrase}
          placeholder="none" onCommit=${(trigger_phrase) => change({ trigger_phrase })} /></div>
        ${mode.fields.filter((field) => LENGTHS[field.name]).map((field) => html`<div key=${field.name}><label class="label" for=${`length-${field.name}`}>${LENGTHS[field.name]}</label>
          <input id=${`length-${field.name}`} inputmode="decimal" value=${form.fields[field.name] ?? ""} placeholder=${field.default} title=${field.help} aria-invalid=${!!faultOf(field, form.fields[field.name])}
            onInput=${(e) => setLength(field.name, e.currentTarget.value)} />
          ${faultOf(field, form.fields[field.name]) && html`<p class="fault">${faultOf(field, form.fields[field.name])}</p>`}</div>`)}
      </div>
      <${CheckState} data=${data} checking=${checking} />
      <${DropZone} slim onFiles=${take} busy=${progress !== null}>
        ${progress !== null && html`<div style=${{ marginBottom: "0.5rem" }}><${Progress} step=${progress} steps=${1} label="Upload" /></div>`}<//>
    </div>
    <div class="toolbar" style=${{ marginTop: "1rem" }}>
      <input type="search" aria-label="Search names and captions" placeholder="Search" value=${search} onInput=${(e) => setSearch(e.currentTarget.value)} />
      <div class="segmented" role="group" aria-label="Show">${FILTERS.map(([name, label]) => {
        const count = data.clips.filter((clip) => matches(clip, name)).length;
        return (name === "all" || count > 0) && html`<button aria-pressed=${filter === name ? "true" : "false"} onClick=${() => setFilter(name)}>${label} <span class="num">${count}</span></button>`;
      })}</div>
      <label class="row small">Sort by <select style=${{ width: "auto" }} value=${order} onChange=${(e) => setOrder(e.currentTarget.value)}>
        <option value="name">name</option><option value="length">length</option><option value="problems">problems first</option><option value="caption">caption</option></select></label>
      <button class="small" onClick=${() => setReplacing(true)}>Find and replace</button>
    </div>
    <div class="clips" data-testid="clips">${shown.slice(0, count).map((clip) => html`<${Clip} key=${clip.name} id=${id} clip=${clip} mode=${mode} video=${data.video}
      onCaption=${caption} onRemove=${remove} onMask=${() => setEditing(clip.name)} onSlice=${setSlicing} />`)}</div>
    ${shown.length > count && html`<div ref=${more} class="row" style=${{ justifyContent: "center", padding: "1rem" }}><button onClick=${() => setCount(count + PAGE)}>Show more of ${many(shown.length, "clip")}</button></div>`}
    ${shown.length === 0 && html`<p class="soft">${data.clips.length ? "Nothing matches." : "No sounds yet: drop some above."}</p>`}
    ${data.others.length > 0 && html`<details class="panel" style=${{ marginTop: "1rem" }}><summary>${many(data.others.length, "other file")}</summary>
      <ul>${data.others.map((one) => html`<li><span class="mono">${one.file}</span> <span class="soft small">${one.detail || "of no clip in this mode"}</span>
        <button class="plain small" onClick=${() => del(`datasets/${id}/files/${encodeURIComponent(one.file)}`).then(setData, failed)}>Remove</button></li>`)}</ul></details>`}
    ${editing && html`<${MaskEditor} id=${id} clip=${data.clips.find((one) => one.name === editing)} onClose=${() => setEditing(null)}
      onSaved=${load} />`}
    ${slicing && html`<${Slicer} id=${id} file=${slicing} length=${form.fields.audio_duration_seconds ?? 5}
      onClose=${() => setSlicing(null)} onDone=${(next) => { setSlicing(null); setData(next); }} />`}
    ${replacing && html`<${Replace} id=${id} clips=${data.clips} onClose=${() => setReplacing(false)} onDone=${load} />`}
  </div>`;
}

// Whether the last check was of these files and these fields.
const isCurrent = ({ id, check }) => !!check?.current && JSON.stringify(check.fields) === JSON.stringify(fieldsOf(id));

function totalSeconds(clips) {
  const known = clips.flatMap((clip) => clip.sounds).map((one) => one.seconds);
  if (!known.length || known.some((one) => one === null)) return "";
  return ` · ${seconds(known.reduce((sum, one) => sum + one, 0))} in all`;
}

const FILTERS = [["all", "All"], ["warn", "Warnings"], ["skipped", "Skipped"], ["fitted", "Fitted"], ["uncaptioned", "No caption"], ["missing", "Incomplete"]];
function matches(clip, filter) {
  if (filter === "warn") return clip.warnings.length > 0;
  if (filter === "skipped" || filter === "fitted") return clip.status === filter;
  if (filter === "uncaptioned") return !clip.caption;
  if (filter === "missing") return !!clip.missing;
  return true;
}
const trouble = (clip) => (clip.missing ? 3 : 0) + (clip.status === "skipped" ? 2 : 0) + (clip.warnings.length ? 1 : 0);
const byName = (a, b) => a.name.localeCompare(b.name, "en", { numeric: true });
const lengthOf = (clip) => clip.sounds[0]?.seconds ?? 0;
const ORDERS = {
  name: byName,
  length: (a, b) => lengthOf(b) - lengthOf(a) || byName(a, b),
  problems: (a, b) => trouble(b) - trouble(a) || byName(a, b),
  caption: (a, b) => a.caption.localeCompare(b.caption) || byName(a, b),
};

function CheckState({ data, checking }) {
  const [progress, setProgress] = useState(null);
  useEffect(() => {
    if (!checking) return setProgress(null);
    const timer = setInterval(() => get(`datasets/${data.id}`).then((now) => setProgress(now.checking), () => {}), 1500);
    return () => clearInterval(timer);
  }, [checking]);
  if (checking) {
    return html`<div class="note" role="status"><div class="row apart"><span>Checking: every clip is read as training will read it.${" "}
      ${progress?.phase} ${progress?.steps ? `${progress.step} of ${progress.steps}` : ""}</span></div>
      <div style=${{ marginTop: "0.4rem" }}><${Progress} step=${progress?.step ?? 0} steps=${progress?.steps ?? 0} label="Check" /></div></div>`;
  }
  const check = data.check;
  if (!check || data.clips.length === 0) return null;
  if (check.error) return html`<div class="note bad" role="alert"><b>A run would be refused.</b> ${check.error.map((one) => html`<div>${one.msg}</div>`)}</div>`;
  const { used, fitted, skipped, warnings } = check.summary;
  return html`<div class=${`note ${skipped || warnings ? "warn" : "good"}`} role="status">
    <b>${check.clips ? `${many(check.clips, "clip")} will be trained on.` : ""}</b> ${many(used + fitted, "file")} used${skipped ? `, ${skipped} skipped` : ""}${warnings ? `, ${many(warnings, "warning")}` : ", no warnings"}.
    ${!isCurrent(data) && " (before the last change)"}
    ${check.warnings.map((text) => html`<div>${text}</div>`)}</div>`;
}

export const address = (id, file, what) => `api/datasets/${id}/files/${encodeURIComponent(file)}${what === "play" ? "?play=1" : what ? `/${what}` : ""}`;

function Clip({ id, clip, mode, video, onCaption, onRemove, onMask, onSlice }) {
  const film = useRef(null);
  const [figures, setFigures] = useState({});
  const group = `clip:${clip.name}`;
  setGroup(group, clip.sounds.map((one) => ({ key: one.role, url: address(id, one.file, "play"), lufs: figures[one.role]?.lufs })), film.current);
  const long = clip.sounds[0] && (figures.target?.seconds ?? clip.sounds[0].seconds) > 30 && !video && !mode.reference;
  const [kind, label] = STATUS[clip.status] ?? ["", "not checked"];
  return html`<article class="clip" data-group=${group} aria-label=${clip.name}>
    ${video && clip.sounds[0] && html`<video class="film" ref=${film} muted playsinline preload="metadata" tabindex="-1" src=${address(id, clip.sounds[0].file, "play")} />`}
    <div class=${clip.sounds.length > 1 ? "pair" : ""}>${clip.sounds.map((one) => html`<${Sound} key=${one.role} group=${group} voice=${one.role}
      label=${mode.reference ? (one.role === "reference" ? "before" : "after") : clip.name} spans=${clip.mask}
      spectrogram=${address(id, one.file, "spectrogram")} shape=${address(id, one.file, "shape")}
      onShape=${(shape) => setFigures((now) => ({ ...now, [one.role]: shape }))} />`)}</div>
    <div class="body">
      <div class="row"><span class="name grow">${clip.name}</span>
        <span class=${`badge ${clip.missing ? "warn" : kind}`} title=${clip.detail}>${clip.missing ? "incomplete" : label}</span>
        ${mode.mask && html`<button class="small icon" aria-label=${`Mark what is regenerated in ${clip.name}`} title="Mark what is regenerated" onClick=${onMask}><${Icon} name="mask" size=${16} /></button>`}
        ${long && html`<button class="small" onClick=${() => onSlice(clip.sounds[0].file)}><${Icon} name="cut" size=${16} /> Slice</button>`}
        <button class="plain small icon" aria-label=${`Remove ${clip.name}`} title="Remove" onClick=${() => onRemove(clip.name)}><${Icon} name="trash" size=${16} /></button></div>
      <${Committed} area label=${`Caption of ${clip.name}`} placeholder="No caption: say what is heard" value=${clip.caption}
        onCommit=${(text) => onCaption(clip.name, text)} />
      ${clip.missing && html`<p class="small soft">${clip.missing}</p>`}
      ${clip.detail && html`<p class="small soft">${clip.detail}</p>`}
      ${clip.warnings.map((text) => html`<p class="note warn">${text}</p>`)}
    </div></article>`;
}

// Text that is saved when one leaves the field, or pauses for a moment.
export function Committed({ value, onCommit, area, label, ...rest }) {
  const [text, setText] = useState(value);
  const saved = useRef(value);
  const commit = useRef(null);
  commit.current = (now) => {
    if (now === saved.current) return;
    saved.current = now;
    onCommit(now);
  };
  const soon = useMemo(() => later(1200, (now) => commit.current(now)), []);
  useEffect(() => {
    if (value !== saved.current) {
      saved.current = value;
      setText(value);
    }
  }, [value]);
  const events = {
    value: text,
    "aria-label": label,
    onInput: (event) => {
      setText(event.currentTarget.value);
      soon(event.currentTarget.value);
    },
    onBlur: () => {
      soon.cancel();
      commit.current(text);
    },
    onKeyDown: (event) => event.key === "Enter" && !event.shiftKey && event.currentTarget.blur(),
    ...rest,
  };
  return area ? html`<textarea rows="2" ...${events} />` : html`<input ...${events} />`;
}

export function Editable({ value, label, onChange }) {
  const [open, setOpen] = useState(false);
  const [text, setText] = useState(value);
  const box = useRef(null);
  useEffect(() => void (open && box.current?.focus()), [open]);
  if (!open) return html`<span onDblClick=${() => setOpen(true)}>${value}</span> <button class="plain small" aria-label=${`Rename: ${label}`} onClick=${() => { setText(value); setOpen(true); }}>Rename</button>`;
  const done = (save) => {
    setOpen(false);
    if (save && text.trim() && text !== value) onChange(text.trim());
  };
  return html`<input ref=${box} aria-label=${label} value=${text} onInput=${(e) => setText(e.currentTarget.value)} onBlur=${() => done(true)}
    onKeyDown=${(e) => { if (e.key === "Enter") done(true); if (e.key === "Escape") done(false); }} />`;
}

function Replace({ id, clips, onClose, onDone }) {
  const [find, setFind] = useState("");
  const [by, setBy] = useState("");
  const [exact, setExact] = useState(false);
  const escaped = find.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  const pattern = find && new RegExp(escaped, exact ? "g" : "gi");
  const changed = pattern ? clips.map((clip) => [clip, clip.caption.replace(pattern, () => by)]).filter(([clip, text]) => text !== clip.caption) : [];
  const apply = async () => {
    try {
      await put(`datasets/${id}/captions`, { captions: Object.fromEntries(changed.map(([clip, text]) => [clip.name, text])) });
      toast(`${many(changed.length, "caption")} changed.`);
      onClose();
      onDone();
    } catch (error) {
      failed(error);
    }
  };
  return html`<${Dialog} title="Find and replace in all captions" onClose=${onClose}>
    <div class="fields"><div><label class="label" for="find">Find</label><input id="find" value=${find} onInput=${(e) => setFind(e.currentTarget.value)} /></div>
      <div><label class="label" for="by">Replace by</label><input id="by" value=${by} onInput=${(e) => setBy(e.currentTarget.value)} /></div></div>
    <label class="check"><input type="checkbox" checked=${exact} onChange=${(e) => setExact(e.currentTarget.checked)} /><span>Match upper and lower case</span></label>
    <div class="log" aria-live="polite">${changed.length === 0 ? html`<span class="soft">${find ? "No caption has this." : "What changes is shown here."}</span>`
      : changed.slice(0, 100).map(([clip, text]) => html`<p><span class="soft">${clip.name}:</span> ${text}</p>`)}</div>
    <div class="row"><button class="main" disabled=${!changed.length} onClick=${apply}>Change ${many(changed.length, "caption")}</button></div>
  <//>`;
}
