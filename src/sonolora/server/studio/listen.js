// Listen: previews as a grid of prompts and steps, A/B in the middle of a sound, and new sounds on the spot.
import { html, useEffect, useMemo, useRef, useState } from "./lib.js";
import { follow, get, modes, post } from "./api.js";
import { address } from "./datasets.js";
import { looping, matched, playing, setGroup, setLooping, setMatched, switchTo, toggle } from "./player.js";
import { Sound, shapeOf } from "./sound.js";
import { titleOf } from "./runs.js";
import { Icon, Progress, failed, kept, keep, many } from "./ui.js";

// Loudness of sounds by their key, measured by the server, for matched levels.
function useLoudness(voices) {
  const [figures, setFigures] = useState({});
  useEffect(() => {
    let alive = true;
    for (const voice of voices) {
      if (voice.shape && figures[voice.key] === undefined) {
        shapeOf(voice.shape).then((shape) => alive && setFigures((now) => ({ ...now, [voice.key]: shape })), () => {});
      }
    }
    return () => {
      alive = false;
    };
  }, [voices.map((voice) => voice.key).join()]);
  return figures;
}

export function Switches() {
  return html`<div class="row small"><label class="check"><input type="checkbox" checked=${matched.value} onChange=${(e) => setMatched(e.currentTarget.checked)} /><span>Match loudness</span></label>
    <label class="check"><input type="checkbox" checked=${looping.value} onChange=${(e) => setLooping(e.currentTarget.checked)} /><span>Loop</span></label>
    <span class="soft"><kbd>space</kbd> plays, <kbd>1</kbd>–<kbd>9</kbd> switch in the middle of the sound</span></div>`;
}

// One row: sounds that play together, of which one is heard. Rows of a page need labels of their own.
export function Voices({ group, title, label = title, voices, spans, detail }) {
  const figures = useLoudness(voices);
  const film = useRef(null);
  const withVideo = voices.find((voice) => voice.film);
  setGroup(group, voices.map((voice) => ({ key: voice.key, url: voice.url, lufs: figures[voice.key]?.lufs })), film.current);
  const now = playing.value?.group === group;
  return html`<section class="stack tight" data-group=${group} aria-label=${label}>
    <div class="row"><button class="icon ${now ? "" : "main"}" aria-label=${now ? "Pause" : `Play: ${title}`} onClick=${() => toggle(group)}><${Icon} name=${now ? "pause" : "play"} /></button>
      <span class="prompt grow">${title}</span>${detail}</div>
    ${withVideo && html`<video ref=${film} class="film" style=${{ maxWidth: "30rem" }} muted playsinline preload="auto" tabindex="-1" src=${withVideo.film} />`}
    <div class="voices" tabindex="0" role="group" aria-label=${`Versions of ${title}`}>${voices.map((voice, index) => html`<div class="voice" key=${voice.key}>
      <${Sound} group=${group} voice=${voice.key} label=${voice.label} spectrogram=${voice.spectrogram} shape=${voice.shape} spans=${voice.spans ?? spans ?? []}
        detail=${figures[voice.key]?.lufs != null ? `${figures[voice.key].lufs.toFixed(1)} LUFS` : undefined} />
      <span class="small soft">${index < 9 ? html`<kbd>${index + 1}</kbd> ` : ""}${voice.note}</span></div>`)}</div>
  </section>`;
}

const ADDRESS = /^https?:\/\/[^/]+\/(files\/.*)$/;
const local = (url) => ADDRESS.exec(url ?? "")?.[1] ?? null;

// What a preview was made from, and the span of it that is new.
export function givenOf(run, number) {
  const entry = run.fields.validation?.[number - 1] ?? {};
  const source = local(entry.audio_url ?? entry.reference_audio_url);
  const mode = modes.value.modes.find((one) => one.name === run.mode);
  const length = run.fields.audio_duration_seconds ?? 5;
  const preview = Math.min(length, 121 / (run.fields.validation_frame_rate ?? 24));
  const kept = run.fields.conditioning_seconds ?? 1;
  const spans = mode.mask ? entry.time_ranges ?? [] : mode.extend === "suffix" ? [[0, preview - kept]] : mode.extend === "prefix" ? [[kept, preview]] : [];
  return { source, film: local(entry.video_url), spans };
}

export function rowsOf(run, previews) {
  const byNumber = new Map();
  for (const one of previews) byNumber.set(one.number, [...(byNumber.get(one.number) ?? []), one]);
  return [...byNumber.entries()].map(([number, list]) => {
    const { source, film, spans } = givenOf(run, number);
    const voices = list.map((one) => ({ key: `step-${one.step}`, url: one.sound, spectrogram: one.spectrogram, shape: one.shape, film, spans,
      label: one.kind === "base" ? "base" : `step ${one.step}`, note: one.kind === "base" ? "before training" : run.evaluation?.best?.step === one.step ? "best on held-out clips" : "" }));
    return { number, prompt: list[0].prompt, voices, source, spans };
  });
}

// The real clip for comparison: one of the dataset.
export function useReal(run) {
  const [data, setData] = useState(null);
  useEffect(() => {
    if (run.dataset) get(`datasets/${run.dataset.id}`).then(setData, () => setData(null));
  }, [run.dataset?.id]);
  return data;
}

export function realVoice(data, prompt, choice) {
  const clips = (data?.clips ?? []).filter((clip) => clip.sounds.some((one) => one.role === "target"));
  if (!clips.length) return null;
  const wanted = new Set(prompt.toLowerCase().split(/\W+/));
  const score = (clip) => clip.caption.toLowerCase().split(/\W+/).filter((word) => wanted.has(word)).length;
  const clip = clips.find((one) => one.name === choice) ?? clips.reduce((best, one) => (score(one) > score(best) ? one : best));
  const file = clip.sounds.find((one) => one.role === "target").file;
  return { key: "real", label: "real", note: clip.name, clip: clip.name, url: address(data.id, file, "play"), spectrogram: address(data.id, file, "spectrogram"), shape: address(data.id, file, "shape") };
}

function PickReal({ data, value, onChange, label }) {
  return html`<label class="row small soft">Real: <select style=${{ width: "auto", maxWidth: "12rem" }} aria-label=${label} value=${value} onChange=${(e) => onChange(e.currentTarget.value)}>
    ${data.clips.map((clip) => html`<option value=${clip.name}>${clip.name}</option>`)}</select></label>`;
}

export function Listen({ run, previews }) {
  const data = useReal(run);
  const [choice, setChoice] = useState({});
  const rows = rowsOf(run, previews);
  return html`<div class="listen">
    <${Switches} />
    ${rows.length === 0 && html`<p class="soft">${run.fields.validation?.length ? "The first previews are made before training begins." : "This run has no previews: none were asked for. New sounds can be made below once it is finished."}</p>`}
    ${rows.map(({ number, prompt, voices, source, spans }) => {
      const real = realVoice(data, prompt, choice[number]);
      const given = source && { key: "given", label: run.mode === "a2a" ? "before" : "source", note: "what was given", url: source, spans, ...ownPictures(source) };
      return html`<div class="panel" key=${number}><${Voices} group=${`preview-${number}`} title=${prompt} label=${`Preview ${number}: ${prompt}`} spans=${spans} voices=${[...voices, given, real].filter(Boolean)}
        detail=${real && html`<${PickReal} data=${data} value=${real.clip} label=${`Real clip beside preview ${number}`} onChange=${(clip) => setChoice({ ...choice, [number]: clip })} />`} /></div>`;
    })}
    ${run.state === "finished" ? html`<${Generate} run=${run} data=${data} />` : html`<p class="soft small">New prompts and other strengths can be heard here when the run is finished.</p>`}
  </div>`;
}

const ownPictures = (url) => ({ spectrogram: `api/${url}/spectrogram`, shape: `api/${url}/shape` });

// New sounds: a prompt at several strengths, from the warm base.
function Generate({ run, data }) {
  const mode = modes.value.modes.find((one) => one.name === run.mode);
  const needs = mode.generation.find((field) => ["audio", "reference", "video"].includes(field.name));
  const saved = kept(`generate.${run.id}`, {});
  const [prompt, setPrompt] = useState(saved.prompt ?? run.fields.validation?.[0]?.prompt ?? run.fields.trigger_phrase ?? "");
  const [scale, setScale] = useState(saved.scale ?? 1);
  const [seed, setSeed] = useState(saved.seed ?? 42);
  const [steps, setSteps] = useState(saved.steps ?? 30);
  const [length, setLength] = useState(saved.length ?? "");
  const [clip, setClip] = useState(saved.clip ?? "");
  const [sweep, setSweep] = useState(saved.sweep ?? false);
  const [ranges, setRanges] = useState(saved.ranges ?? "");
  const [made, setMade] = useState([]); // requests, the newest first
  useEffect(() => keep(`generate.${run.id}`, { prompt, scale, seed, steps, length, clip, sweep, ranges }), [prompt, scale, seed, steps, length, clip, sweep, ranges]);
  useEffect(() => {
    get("runs?kind=generate&limit=200").then(({ runs }) => Promise.all(runs.filter((one) => one.mode === run.mode).slice(0, 12).map((one) => get(`runs/${one.id}`))))
      .then((found) => setMade(found.filter((one) => one.lora === run.id)), failed);
  }, []);
  const source = data?.clips.find((one) => one.name === clip) ?? (needs ? data?.clips[0] : null);
  const ask = async (event) => {
    event.preventDefault();
    const fields = {};
    if (length !== "") fields.seconds = Number(length);
    if (needs && source) {
      const role = needs.name === "reference" ? "reference" : "target";
      fields[needs.name] = `clip:${(source.sounds.find((one) => one.role === role) ?? source.sounds[0]).file}`;
      if (mode.mask) fields.time_ranges = ranges ? JSON.parse(ranges) : source.mask;
      if (mode.extend && run.fields.conditioning_seconds) fields.conditioning_seconds = run.fields.conditioning_seconds;
    }
    const scales = sweep ? [0, 0.5, 0.75, 1, 1.25] : [0, Number(scale)];
    try {
      const found = await post("generations", { mode: run.mode, run: run.id, prompts: [prompt], scales: [...new Set(scales)], seeds: [Number(seed)], fields, settings: { steps: Number(steps) }, dataset: data?.id });
      setMade((now) => [found, ...now]);
    } catch (error) {
      failed(error);
    }
  };
  return html`<section class="panel stack"><h2>New sounds</h2>
    <form class="stack" onSubmit=${ask}>
      <div><label class="label" for="new-prompt">Prompt</label><input id="new-prompt" required value=${prompt} onInput=${(e) => setPrompt(e.currentTarget.value)} />
        ${run.fields.trigger_phrase && !prompt.includes(run.fields.trigger_phrase) && html`<p class="help">Without the trigger phrase “${run.fields.trigger_phrase}” less of the LoRA is heard.</p>`}</div>
      <div class="fields">
        <div><label class="label" for="scale">Strength <b class="num">${Number(scale).toFixed(2)}</b></label><input id="scale" type="range" min="-0.5" max="2" step="0.05" value=${scale} disabled=${sweep} onInput=${(e) => setScale(e.currentTarget.value)} />
          <label class="check small"><input type="checkbox" checked=${sweep} onChange=${(e) => setSweep(e.currentTarget.checked)} /><span>A sweep: 0, 0.5, 0.75, 1, 1.25</span></label></div>
        <div><label class="label" for="seed">Seed</label><div class="row" style=${{ flexWrap: "nowrap" }}><input id="seed" inputmode="numeric" pattern="[0-9]+" value=${seed} onInput=${(e) => setSeed(e.currentTarget.value)} />
          <button type="button" class="small" onClick=${() => setSeed(Math.floor(Math.random() * 1e6))}>Another</button></div></div>
        <div><label class="label" for="sampling">Sampling steps</label><input id="sampling" inputmode="numeric" pattern="[0-9]+" value=${steps} onInput=${(e) => setSteps(e.currentTarget.value)} /></div>
        ${(!needs || mode.extend) && html`<div><label class="label" for="seconds">Seconds</label><input id="seconds" inputmode="decimal" placeholder="as in training" value=${length} onInput=${(e) => setLength(e.currentTarget.value)} /></div>`}
        ${needs && data && html`<div><label class="label" for="given">${mode.video ? "Video" : mode.reference ? "Reference" : "Clip"}</label><select id="given" value=${source?.name} onChange=${(e) => setClip(e.currentTarget.value)}>${data.clips.map((one) => html`<option value=${one.name}>${one.name}</option>`)}</select></div>`}
        ${mode.mask && html`<div><label class="label" for="ranges">Seconds to regenerate</label><input id="ranges" placeholder=${JSON.stringify(source?.mask ?? [])} value=${ranges} onInput=${(e) => setRanges(e.currentTarget.value)} /><p class="help">By default the clip's own mask.</p></div>`}
      </div>
      <div class="row"><button class="main" type="submit" disabled=${needs && !source}>Generate</button><span class="small soft">The base alone is made beside it, with the same seed.</span></div>
    </form>
    ${made.map((one, index) => html`<${Made} key=${one.id} first=${one} number=${made.length - index} mode=${mode} data=${data} trained=${run.fields.audio_duration_seconds ?? 5} />`)}
  </section>`;
}

function Made({ first, number, mode, data, trained }) {
  const [found, setFound] = useState(first);
  const done = ["finished", "failed", "cancelled"].includes(found.state);
  useEffect(() => {
    if (done) return undefined;
    const load = () => get(`runs/${first.id}`).then(setFound, () => {});
    const stop = follow(first.id, { run: load, end: load });
    const timer = setInterval(load, 1500); // samples appear one by one
    return () => {
      stop();
      clearInterval(timer);
    };
  }, [done]);
  const ready = found.samples.filter((one) => one.sound);
  const film = mode.video ? local(found.fields.video) : null;
  const source = local(found.fields.audio ?? found.fields.reference);
  const given = found.fields.conditioning_seconds ?? 1;
  const length = found.fields.seconds ?? trained;
  const spans = mode.mask ? found.fields.time_ranges ?? [] : mode.extend === "suffix" ? [[0, length - given]] : mode.extend === "prefix" ? [[given, length]] : [];
  const voices = ready.map((one) => ({ key: `${one.scale}-${one.seed}`, label: one.scale === 0 ? "base" : `strength ${one.scale}`, note: `seed ${one.seed}`, url: one.sound, spectrogram: one.spectrogram, shape: one.shape, film, spans }));
  if (source && voices.length) voices.push({ key: "given", label: mode.reference ? "before" : "source", note: "what was given", url: source, spans: mode.mask ? spans : [], ...ownPictures(source) });
  const real = realVoice(data, found.samples[0].prompt);
  if (real && voices.length) voices.push(real);
  return html`<div class="stack tight">
    ${!done && html`<div class="stack tight"><p class="small soft" role="status">${found.state === "queued" ? "Waiting for a device. " : ""}${found.progress.phase ?? "Starting"}: ${many(ready.length, "sound")} of ${found.samples.length} ready</p>
      <${Progress} step=${found.progress.step ?? 0} steps=${found.progress.steps ?? 0} label="Generating" /></div>`}
    ${found.state === "failed" && html`<p class="note bad" role="alert">${found.error}</p>`}
    ${voices.length > 0 && html`<${Voices} group=${`made-${found.id}`} title=${found.samples[0].prompt} label=${`New sounds ${number}: ${found.samples[0].prompt}`} voices=${voices} />`}</div>`;
}

// Two runs side by side: their last previews of equal prompts in one row.
export function Compare({ ids }) {
  const [runs, setRuns] = useState(null);
  useEffect(() => void Promise.all(ids.map((id) => get(`runs/${id}`))).then(setRuns, failed), []);
  const prompts = useMemo(() => {
    const all = new Map();
    for (const [index, run] of (runs ?? []).entries()) {
      for (const one of run.previews) {
        const row = all.get(one.prompt) ?? { prompt: one.prompt, voices: [] };
        row.voices.push({ key: `${index}-${one.step}`, run: index, step: one.step, kind: one.kind, label: one.kind === "base" ? "base" : `${run.name}: step ${one.step}`, note: run.name, url: one.sound, spectrogram: one.spectrogram, shape: one.shape });
        all.set(one.prompt, row);
      }
    }
    return [...all.values()].map((row) => {
      const bases = row.voices.filter((one) => one.kind === "base").slice(0, 1);
      const last = [0, 1].map((index) => row.voices.filter((one) => one.run === index && one.kind !== "base").at(-1)).filter(Boolean);
      return { ...row, voices: [...bases, ...last] };
    });
  }, [runs]);
  if (!runs) return html`<p class="soft">Loading…</p>`;
  return html`<div class="listen"><div class="head" style=${{ marginBottom: 0 }}><div class="grow"><h1>${runs[0].name} and ${runs[1].name}</h1>
      <p>${runs.map((run) => titleOf(run.mode)).join(" and ")}. Sounds of one prompt switch in the middle.</p></div></div>
    <${Switches} />
    ${prompts.length === 0 && html`<p class="soft">Neither has previews.</p>`}
    ${prompts.map((row, index) => html`<div class="panel" key=${row.prompt}><${Voices} group=${`compare-${index}`} title=${row.prompt} voices=${row.voices} /></div>`)}
    <section class="panel"><h2>What differs</h2><table><thead><tr><th scope="col">Field</th>${runs.map((run) => html`<th scope="col">${run.name}</th>`)}</tr></thead>
      <tbody>${differences(runs).map(([name, a, b]) => html`<tr><td>${name}</td><td class="num">${a}</td><td class="num">${b}</td></tr>`)}</tbody></table></section>
  </div>`;
}

function differences([a, b]) {
  const flat = (run) => ({ mode: run.mode, base: run.base, dataset: run.dataset?.name, revision: run.dataset?.revision, ...run.fields, ...run.settings });
  const [one, other] = [flat(a), flat(b)];
  return [...new Set([...Object.keys(one), ...Object.keys(other)])].filter((name) => name !== "training_data_url" && name !== "validation" && JSON.stringify(one[name]) !== JSON.stringify(other[name]))
    .map((name) => [name, show(one[name]), show(other[name])]);
}
const show = (value) => (value === undefined || value === null ? "by default" : typeof value === "object" ? JSON.stringify(value) : String(value));
export { switchTo };
