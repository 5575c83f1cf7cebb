// The one player of the page: groups of sounds that play together, of which one is heard.
import { signal } from "./lib.js";
import { failed, keep, kept } from "./ui.js";
import { matchedGains, startVoices } from "./voices.js";

export const playing = signal(null); // {group, key} of what is heard now
export const position = signal(0); // seconds
export const matched = signal(kept("matched", true));
export const looping = signal(kept("looping", false));
const chosen = signal({}); // the voice of each group that is heard next

let context = null;
let voices = null;
let startedAt = 0; // in the context's time, of second 0 of the sounds
let length = 0;
let turn = 0;
let groups = new Map(); // name -> {voices: [{key, url, lufs}], film}
const buffers = new Map(); // url without its signature -> promise of a buffer
const resting = new Map(); // where each group was stopped
const MOST_BUFFERS = 60;

function audio() {
  context ??= new AudioContext();
  if (context.state === "suspended") context.resume();
  return context;
}

export function bufferOf(url) {
  const key = url.split("?")[0] + (url.includes("play=") ? "#play" : "");
  if (!buffers.has(key)) {
    if (buffers.size >= MOST_BUFFERS) buffers.delete(buffers.keys().next().value);
    const loading = fetch(url)
      .then((answer) => {
        if (!answer.ok) throw new Error(`The sound could not be loaded (${answer.status}).`);
        return answer.arrayBuffer();
      })
      .then((content) => audio().decodeAudioData(content));
    loading.catch(() => buffers.delete(key));
    buffers.set(key, loading);
  }
  return buffers.get(key);
}

// Says which sounds belong together. Called whenever a view draws them.
export function setGroup(name, list, film = null) {
  groups.set(name, { voices: list, film });
}
export const chosenOf = (name) => chosen.value[name];

function gainsOf(list) {
  return matched.value ? matchedGains(list.map((voice) => voice.lufs)) : list.map(() => 1);
}

export async function play(name, key, from = resting.get(name) ?? 0) {
  const group = groups.get(name);
  if (!group) return;
  const mine = ++turn;
  const wanted = key ?? chosen.value[name] ?? group.voices[0]?.key;
  audio();
  try {
    // The first voice must load; others that cannot be loaded are skipped.
    const loaded = await Promise.all(
      group.voices.map((voice) => bufferOf(voice.url).catch((error) => (voice.key === wanted ? Promise.reject(error) : null))),
    );
    if (mine !== turn) return;
    halt();
    const gains = gainsOf(group.voices);
    const ready = group.voices
      .map((voice, index) => ({ key: voice.key, buffer: loaded[index], gain: gains[index] }))
      .filter((voice) => voice.buffer);
    length = Math.max(...ready.map((voice) => voice.buffer.duration));
    const offset = from >= length - 0.02 ? 0 : from;
    const when = context.currentTime + 0.03;
    voices = startVoices(context, context.destination, ready, wanted, offset, when);
    startedAt = when - offset;
    choose(name, wanted);
    playing.value = { group: name, key: wanted };
    position.value = offset;
    if (group.film) {
      group.film.currentTime = offset;
      group.film.play().catch(() => {});
    }
    requestAnimationFrame(tick);
  } catch (error) {
    failed(error);
  }
}

function choose(name, key) {
  chosen.value = { ...chosen.value, [name]: key };
}

// Hear another sound of the same group from the same moment on; starts it where nothing plays.
export function switchTo(name, key) {
  choose(name, key);
  if (playing.value?.group === name && voices) {
    voices.switchTo(key);
    playing.value = { group: name, key };
  }
}

export function seek(name, key, at) {
  resting.set(name, at);
  position.value = at;
  play(name, key, at);
}

export function toggle(name, key) {
  const now = playing.value;
  if (now?.group === name && (key === undefined || now.key === key)) stop();
  else if (now?.group === name) switchTo(name, key);
  else play(name, key);
}

function halt() {
  if (voices && playing.value) {
    resting.set(playing.value.group, position.value);
    groups.get(playing.value.group)?.film?.pause();
  }
  voices?.stop();
  voices = null;
}

export function stop() {
  turn++;
  halt();
  playing.value = null;
}

export function setMatched(on) {
  matched.value = on;
  keep("matched", on);
  const now = playing.value;
  if (!now || !voices) return;
  const list = groups.get(now.group).voices;
  gainsOf(list).forEach((gain, index) => voices.setGain(list[index].key, gain));
}

export function setLooping(on) {
  looping.value = on;
  keep("looping", on);
}

function tick() {
  if (!voices || !playing.value) return;
  const at = context.currentTime - startedAt;
  if (at >= length) {
    const { group, key } = playing.value;
    resting.set(group, 0);
    position.value = 0;
    if (looping.value) play(group, key, 0);
    else {
      halt();
      resting.set(group, 0);
      playing.value = null;
    }
    return;
  }
  position.value = Math.max(0, at);
  requestAnimationFrame(tick);
}

// For tests: what the page would do now.
export const state = () => ({ playing: playing.value, position: position.value, context: context?.state });

let lastGroup = null;
playing.subscribe((now) => now && (lastGroup = now.group));
// Space plays and pauses what was heard last, digits choose a sound of it. Not where somebody types.
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, [data-keys], dialog")) return;
  const group = groups.get(lastGroup);
  const onButton = event.target.closest("button, a, summary");
  if (event.key === " " && !onButton) {
    const name = lastGroup && document.querySelector(`[data-group="${CSS.escape(lastGroup)}"]`) ? lastGroup : firstGroup();
    if (name) {
      event.preventDefault();
      toggle(name);
    }
  } else if (/^[1-9]$/.test(event.key) && group?.voices[event.key - 1]) {
    switchTo(lastGroup, group.voices[event.key - 1].key);
  }
});
const firstGroup = () => document.querySelector("[data-group]")?.dataset.group;
addEventListener("hashchange", () => {
  stop();
  groups = new Map();
  lastGroup = null;
});
