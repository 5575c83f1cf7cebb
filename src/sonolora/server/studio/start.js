// Start: what a run is made from. Only fields with an effect in the mode; the form is kept in the browser.
import { html, useEffect, useMemo, useRef, useState } from "./lib.js";
import { get, modes, post } from "./api.js";
import { Field, faultOf, listOf } from "./fields.js";
import { formOf } from "./datasets.js";
import { Progress, bytes, dollars, duration, failed, keep, kept, later, many, words } from "./ui.js";

const EMPTY = { name: "", fields: {}, settings: {}, base: null, validation: null, sweep: null, lora: null };
const LEAST_CLIPS = 12; // from which on some are held out by themselves

// A finished run as the beginning of a form: what it was started with, files of the dataset aside; `onward`: and its LoRA.
function formFrom(run, onward) {
  const { training_data_url: _, trigger_phrase: __, validation, keep_all, held_out, ...fields } = run.fields;
  const lora = onward ? { run: run.id, name: run.name } : null;
  const sweep = run.sweep && !onward ? { keep_all, held_out } : null;
  if (run.sweep && onward) Object.assign(fields, { learning_rate: undefined, rank: undefined }, run.sweep.members[run.sweep.standings?.best]);
  for (const name of ["learning_rate", "rank"]) {
    if (!sweep || fields[name] === undefined) continue;
    sweep[name] = fields[name].join(", ");
    delete fields[name];
  }
  return { ...EMPTY, name: `${run.name}, ${onward ? "further" : "again"}`, lora, fields, sweep, base: run.base, settings: run.settings,
    validation: (validation ?? []).map(({ prompt, ...rest }) => ({ prompt, ...rest })) };
}

export function StartView({ dataset, from, onward }) {
  const [data, setData] = useState(null);
  const [gone, setGone] = useState(false);
  const [form, setForm] = useState({ ...EMPTY, ...formOf(dataset) });
  const [busy, setBusy] = useState(false);
  const [faults, setFaults] = useState([]);
  const [power, setPower] = useState(kept("power", {}));
  const name = `form.${dataset}`;
  useEffect(() => {
    if (!dataset) return;
    get(`datasets/${dataset}`).then(setData, (error) => (error.status === 404 ? setGone(true) : failed(error)));
    if (from) get(`runs/${from}`).then((run) => change(formFrom(run, onward)), failed);
  }, []);
  const change = (next) => {
    setForm(next);
    keep(name, next);
  };
  if (!dataset) return html`<p class="note">Choose a dataset first. <a href="#/">Datasets</a></p>`;
  if (gone) return html`<p class="note bad">There is no such dataset any more. <a href="#/">All datasets</a></p>`;
  if (!data) return html`<p class="soft">Loading…</p>`;
  const mode = modes.value.modes.find((one) => one.name === data.mode);
  const settings = modes.value.settings.filter((one) => (!one.modes || one.modes.includes(mode.name)) && !(form.sweep && one.without_sweep));
  const validation = form.validation ?? suggested(mode, data);
  const body = bodyOf(form, validation, mode, data, settings);
  const several = form.sweep ? mode.sweep : [];
  const tried = new Set(several.map((field) => field.name));
  const plain = mode.fields.filter((field) => !tried.has(field.name));
  const wrong = [...plain.map((field) => [field, form.fields[field.name]]), ...several.map((field) => [field, form.sweep[field.name]]), ...settings.map((field) => [field, form.settings[field.name]])]
    .filter(([field, value]) => value !== undefined && faultOf(field, value)).map(([field]) => field.name);
  const setField = (field, value) => change({ ...form, fields: { ...form.fields, [field]: value } });
  const setSweep = (field, value) => change({ ...form, sweep: { ...form.sweep, [field]: value } });
  const fewClips = form.sweep && !form.sweep.held_out && data.clips.length < LEAST_CLIPS;
  if (fewClips) wrong.push("held_out");
  const setSetting = (field, value) => change({ ...form, settings: { ...form.settings, [field]: value } });
  const start = async () => {
    setBusy(true);
    setFaults([]);
    try {
      const run = await post("runs", body);
      location.hash = `#/runs/${run.id}`;
    } catch (error) {
      setFaults(error.message.split("\n"));
      setBusy(false);
    }
  };
  const shown = (field) => html`<${Field} key=${field.name} id=${`field-${field.name}`} field=${field} value=${form.fields[field.name]} onChange=${(value) => setField(field.name, value)} />`;
  return html`<div class="stack" style=${{ gap: "1.5rem" }}>
    <div class="head" style=${{ marginBottom: 0 }}><div class="grow"><p class="small"><a href=${`#/datasets/${dataset}`}>${data.name}</a></p>
      <h1>Train: ${mode.title}</h1><p>${mode.subtitle}. ${many(data.clips.length, mode.reference ? "pair" : "clip")}${data.trigger_phrase ? `, trigger phrase “${data.trigger_phrase}”` : ", no trigger phrase"}.</p></div>
      <button class="plain" onClick=${() => change(EMPTY)}>Back to the defaults</button></div>
    <section class="panel stack"><h2>Training</h2>
      ${form.lora && html`<p class="note">Begins with the LoRA of <a href=${`#/runs/${form.lora.run}`}>${form.lora.name}</a>, which has this rank or less. <button class="plain small" onClick=${() => change({ ...form, lora: null })}>Begin with the base</button></p>`}
      <div class="fields"><div><label class="label" for="run-name">Name</label><input id="run-name" value=${form.name} placeholder=${data.name} onInput=${(e) => change({ ...form, name: e.currentTarget.value })} />
          <p class="help">As it stands in the list of runs.</p></div>
        <div><label class="label" for="base">Base</label><select id="base" value=${form.base ?? modes.value.base} onChange=${(e) => change({ ...form, base: e.currentTarget.value })}>
          ${modes.value.bases.map((base) => html`<option value=${base}>${base}</option>`)}</select><p class="help">The model that learns. tiny is for trying things out.</p></div>
        ${plain.filter((field) => field.first).map(shown)}</div>
      <label class="check"><input type="checkbox" checked=${!!form.sweep} disabled=${!!form.lora} onChange=${(e) => change({ ...form, sweep: e.currentTarget.checked ? {} : null })} /><span>Try several learning rates and ranks, and keep the best</span></label>
      ${form.sweep && html`<div class="fields">${several.map((field) => html`<${Field} key=${field.name} id=${`sweep-${field.name}`} field=${field} value=${form.sweep[field.name]} onChange=${(value) => setSweep(field.name, value)} />`)}</div>
        <p class="small soft">All are trained at once on one base, and compared on clips that are held out of training. There are no previews: the best is heard afterwards, with new sounds.</p>
        ${fewClips && html`<p class="fault">With fewer than ${LEAST_CLIPS} clips, say how many are held out.</p>`}`}</section>
    ${!form.sweep && html`<${Previews} mode=${mode} data=${data} entries=${validation} onChange=${(entries) => change({ ...form, validation: entries })} />`}
    <details class="panel"><summary>More fields of the request</summary><div class="fields">${plain.filter((field) => !field.first).map(shown)}</div></details>
    <details class="panel"><summary>How it is carried out on this machine</summary><div class="fields">${settings.map((field) => html`
      <${Field} key=${field.name} id=${`setting-${field.name}`} field=${field} value=${form.settings[field.name]} onChange=${(value) => setSetting(field.name, value)} />`)}</div></details>
    <${Power} value=${power} onChange=${(next) => { setPower(next); keep("power", next); }} />
    ${faults.length > 0 && html`<div class="note bad" role="alert">${faults.map((text) => html`<div>${text}</div>`)}</div>`}
    <div class="panel row apart starter">
      <${Estimate} power=${power} body=${body} wrong=${wrong} mode=${mode} empty=${data.clips.length === 0} />
      <button class="main" disabled=${busy || wrong.length > 0 || data.clips.length === 0} onClick=${start}>${busy ? "Starting…" : "Start training"}</button></div>
  </div>`;
}

function bodyOf(form, validation, mode, data, settings) {
  const known = new Set(mode.fields.map((field) => field.name));
  const set = (values, names) => Object.fromEntries(Object.entries(values).filter(([name, value]) => names.has(name) && value !== undefined && value !== "" && value !== null));
  const fields = set(form.fields, known);
  if (form.sweep) {
    for (const field of mode.sweep) {
      const value = form.sweep[field.name] || field.default;
      if (value !== null && value !== "") fields[field.name] = field.type === "list" ? listOf(value) : value;
    }
    validation = [];
  }
  const entries = validation.filter((entry) => entry.prompt.trim() && mode.validation.every((field) => !field.name.endsWith("_url") || entry[field.name]));
  if (entries.length) fields.validation = entries.map((entry) => Object.fromEntries(mode.validation.map((field) => [field.name, entry[field.name]])));
  return { mode: mode.name, dataset: data.id, name: form.name, base: form.base ?? undefined, from_run: form.lora?.run, fields, settings: set(form.settings, new Set(settings.map((field) => field.name))) };
}

// What a preview needs besides its prompt, from a clip of the dataset.
function given(mode, clip) {
  const part = mode.reference ? clip.sounds.find((one) => one.role === "reference") : clip.sounds[0];
  const address = part && `clip:${part.file}`;
  if (mode.reference) return { reference_audio_url: address };
  if (mode.video) return { video_url: address };
  if (mode.mask) return { audio_url: address, time_ranges: clip.mask };
  if (mode.extend) return { audio_url: address };
  return {};
}

function suggested(mode, data) {
  const usable = data.clips.filter((clip) => clip.caption && !clip.missing && clip.status !== "skipped");
  const some = usable.length > 1 ? [usable[0], usable[Math.floor(usable.length / 2)]] : usable;
  return some.map((clip) => ({ prompt: [data.trigger_phrase, clip.caption].filter(Boolean).join(" "), clip: clip.name, ...given(mode, clip) }));
}

function Previews({ mode, data, entries, onChange }) {
  const needsClip = mode.validation.some((field) => field.name.endsWith("_url"));
  const set = (index, changes) => onChange(entries.map((entry, other) => (other === index ? { ...entry, ...changes } : entry)));
  const add = () => onChange([...entries, { prompt: data.trigger_phrase ? `${data.trigger_phrase} ` : "", ...(needsClip ? { clip: data.clips[0]?.name, ...given(mode, data.clips[0]) } : {}) }]);
  return html`<section class="panel stack"><div class="row apart"><h2>Previews</h2>
      <button class="small" disabled=${entries.length >= 2} onClick=${add}>Add a preview</button></div>
    <p class="small soft">${needsClip ? "Made before training, at intervals, and at the end: from a prompt and a clip of the dataset." : "Sounds made before training, at intervals, and at the end, to hear what is learned. At most two."}</p>
    ${entries.map((entry, index) => html`<div class="row" key=${index} style=${{ alignItems: "flex-end" }}>
      <div class="grow" style=${{ flexBasis: "18rem" }}><label class="label" for=${`prompt-${index}`}>Prompt ${index + 1}</label>
        <input id=${`prompt-${index}`} value=${entry.prompt} onInput=${(e) => set(index, { prompt: e.currentTarget.value })} /></div>
      ${needsClip && html`<div style=${{ flexBasis: "14rem" }}><label class="label" for=${`clip-${index}`}>${mode.reference ? "Reference" : mode.video ? "Video" : "Clip"}</label>
        <select id=${`clip-${index}`} value=${entry.clip ?? ""} onChange=${(e) => set(index, { clip: e.currentTarget.value, ...given(mode, data.clips.find((clip) => clip.name === e.currentTarget.value)) })}>
          ${!entry.clip && html`<option value="">as in the run before</option>`}${data.clips.map((clip) => html`<option value=${clip.name}>${clip.name}</option>`)}</select></div>`}
      <button class="plain" onClick=${() => onChange(entries.filter((_, other) => other !== index))}>Remove</button></div>`)}
  </section>`;
}

// What the machine draws and what its power costs, for the price of a run here. Kept in the browser, for all forms.
function Power({ value, onChange }) {
  const field = (name, label, help) => html`<div><label class="label" for=${`power-${name}`}>${label}</label><input id=${`power-${name}`} inputmode="decimal" placeholder="not set" value=${value[name] ?? ""}
    onInput=${(e) => onChange({ ...value, [name]: e.currentTarget.value })} /><p class="help">${help}</p></div>`;
  return html`<details class="panel"><summary>What it costs here</summary><div class="fields">${field("watts", "Watts", "Of the whole machine under load.")}${field("price", "Dollars a kWh", "With both, the price of a run here stands beside the hosted one.")}</div></details>`;
}

function Estimate({ power, body, wrong, mode, empty }) {
  const [result, setResult] = useState(null);
  const [fault, setFault] = useState("");
  const [busy, setBusy] = useState(false);
  const call = useRef(null);
  const ask = useMemo(() => later(900, async (wanted) => {
    call.current?.abort();
    const mine = (call.current = new AbortController());
    setBusy(true);
    try {
      setResult(await post("estimate", wanted, { signal: mine.signal }));
      setFault("");
    } catch (error) {
      if (mine.signal.aborted) return;
      setFault(error.message);
    }
    setBusy(false);
  }), []);
  const { name: _, ...counted } = body;
  useEffect(() => {
    if (!wrong.length && !empty) ask(counted);
    return ask.cancel;
  }, [JSON.stringify(counted), wrong.length, empty]);
  useEffect(() => () => call.current?.abort(), []);
  if (wrong.length) return html`<p class="fault">Outside its range: ${wrong.map(words).join(", ")}</p>`;
  if (fault) return html`<p class="fault grow" role="alert">${fault}</p>`;
  const steps = body.fields.number_of_steps ?? mode.fields.find((field) => field.name === "number_of_steps").default;
  if (!result) return html`<div class="grow" style=${{ maxWidth: "18rem" }}><p class="small soft">${empty ? "No clips yet." : "Estimating time and memory…"}</p>${busy && html`<${Progress} label="Estimate" />`}</div>`;
  const tooLarge = !result.fits;
  const seconds = result.training_seconds === null ? null : result.preparation_seconds + result.training_seconds + result.preview_seconds;
  return html`<div class="grow figures" aria-busy=${busy} style=${{ opacity: busy ? 0.55 : 1 }} data-testid="estimate">
    <div class="figure"><b>${seconds === null ? "–" : duration(seconds)}</b><span class="small soft">${many(steps, "step")}, here</span></div>
    <div class="figure"><b>${bytes(result.peak)}</b><span class=${`small ${tooLarge ? "fault" : "soft"}`}>memory, of ${bytes(result.available)} free</span></div>
    ${power.watts > 0 && power.price > 0 && seconds !== null && html`<div class="figure"><b>${dollars((seconds / 3.6e6) * power.watts * power.price)}</b><span class="small soft">power, here</span></div>`}
    <div class="figure"><b>${dollars(result.hosted_price)}</b><span class="small soft">hosted at fal</span></div>
    ${tooLarge && html`<p class="fault" role="alert">${result.error}</p>`}</div>`;
}
