// Blind test: X is A or B, decided by chance in each trial; the result says how often chance alone would do as well.
import { html, useEffect, useState } from "./lib.js";
import { playing, setGroup, stop, switchTo, toggle } from "./player.js";
import { realVoice, rowsOf, useReal } from "./listen.js";
import { shapeOf } from "./sound.js";
import { many } from "./ui.js";

// The chance of `right` or more of `trials` by guessing.
export function pValue(right, trials) {
  let sum = 0;
  let ways = 1; // trials over k
  for (let k = 0; k <= trials; k++) {
    if (k >= right) sum += ways;
    ways = (ways * (trials - k)) / (k + 1);
  }
  return sum / 2 ** trials;
}

// Chance from the system's generator, so that nobody, the page included, can foresee it.
const coin = () => crypto.getRandomValues(new Uint8Array(1))[0] % 2 === 0;

export function BlindTest({ run, previews }) {
  const data = useReal(run);
  const rows = rowsOf(run, previews).map((row) => ({ ...row, voices: [...row.voices, realVoice(data, row.prompt)].filter(Boolean) }));
  const [row, setRow] = useState(0);
  const [a, setA] = useState("");
  const [b, setB] = useState("");
  const [trials, setTrials] = useState(10);
  const [test, setTest] = useState(null); // {a, b, trials, answers, isA}
  useEffect(() => stop, []);
  if (rows.length === 0) return html`<p class="soft">There are no previews to compare yet.</p>`;
  const current = rows[row] ?? rows[0];
  const voices = current.voices;
  const voiceA = voices.find((one) => one.key === a) ?? voices[0];
  const voiceB = voices.find((one) => one.key === b) ?? voices.filter((one) => one.key !== voiceA.key && one.key !== "real").at(-1) ?? voices.at(-1);
  if (test) return html`<${Trials} test=${test} onChange=${setTest} onEnd=${() => setTest(null)} />`;
  const start = async () => {
    const level = async (voice) => (await shapeOf(voice.shape).catch(() => ({}))).lufs;
    setTest({ a: { ...voiceA, lufs: await level(voiceA) }, b: { ...voiceB, lufs: await level(voiceB) }, prompt: current.prompt, trials, answers: [], isA: coin() });
  };
  const choose = (label, id, voice, onChange) => html`<div><label class="label" for=${id}>${label}</label><select id=${id} value=${voice.key} onChange=${(e) => onChange(e.currentTarget.value)}>
    ${voices.map((one) => html`<option value=${one.key}>${one.label}${one.note ? ` (${one.note})` : ""}</option>`)}</select></div>`;
  return html`<section class="panel stack" style=${{ maxWidth: "44rem" }}><h2>Can you hear the difference?</h2>
    <p class="soft">In each trial X is A or B, by chance. Listen as often as you like, switch in the middle, then say which it is. Loudness is matched.</p>
    <div class="fields"><div style=${{ gridColumn: "1 / -1" }}><label class="label" for="abx-prompt">Prompt</label><select id="abx-prompt" value=${row} onChange=${(e) => setRow(Number(e.currentTarget.value))}>${rows.map((one, index) => html`<option value=${index}>${one.prompt}</option>`)}</select></div>
      ${choose("A", "abx-a", voiceA, setA)}${choose("B", "abx-b", voiceB, setB)}
      <div><label class="label" for="abx-trials">Trials</label><select id="abx-trials" value=${trials} onChange=${(e) => setTrials(Number(e.currentTarget.value))}>${[5, 8, 10, 16, 20].map((count) => html`<option value=${count}>${count}</option>`)}</select></div></div>
    <div class="row"><button class="main" disabled=${voiceA.key === voiceB.key} onClick=${start}>Begin</button>
      <span class="small soft">${needed(trials)} of ${trials} right are needed for p below 0.05.</span></div></section>`;
}

const needed = (trials) => [...Array(trials + 1).keys()].find((right) => pValue(right, trials) < 0.05) ?? trials;

function Trials({ test, onChange, onEnd }) {
  const group = "abx";
  const x = test.isA ? test.a : test.b;
  setGroup(group, [{ ...test.a, key: "A" }, { ...test.b, key: "B" }, { ...x, key: "X" }]);
  const answered = test.answers.length;
  const right = test.answers.filter(Boolean).length;
  const answer = (isA) => {
    stop();
    onChange({ ...test, answers: [...test.answers, isA === test.isA], isA: coin() });
  };
  useEffect(() => {
    const press = (event) => {
      const key = event.key.toUpperCase();
      if (!"ABX".includes(key) || key.length !== 1 || event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey) return;
      if (playing.value?.group === group) switchTo(group, key);
      else toggle(group, key);
    };
    addEventListener("keydown", press);
    return () => removeEventListener("keydown", press);
  }, []);
  if (answered === test.trials) {
    const p = pValue(right, test.trials);
    return html`<section class="panel stack" style=${{ maxWidth: "44rem" }} data-group=${group}><h2>${right} of ${test.trials} right</h2>
      <p data-testid="p-value">By guessing, as many or more would be right with a probability of <b class="num">p = ${p < 0.001 ? p.toExponential(1) : p.toFixed(3)}</b>.
        ${p < 0.05 ? ` You hear a difference between ${test.a.label} and ${test.b.label}.` : " This shows no difference that you hear: it may be too small, or the trials too few."}</p>
      <div class="row">${test.answers.map((ok, index) => html`<span class=${`badge ${ok ? "good" : "bad"}`} key=${index}>${index + 1} ${ok ? "right" : "wrong"}</span>`)}</div>
      <div class="row"><button class="main" onClick=${() => onChange({ ...test, answers: [], isA: coin() })}>Again</button><button onClick=${onEnd}>Other sounds</button></div></section>`;
  }
  const heard = playing.value?.group === group ? playing.value.key : null;
  return html`<section class="stack" style=${{ maxWidth: "44rem" }} data-group=${group}>
    <div class="row apart"><h2>Trial ${answered + 1} of ${test.trials}</h2><span class="soft small">${test.prompt}</span></div>
    <div class="trial">${["A", "X", "B"].map((key) => html`<button key=${key} aria-pressed=${heard === key ? "true" : "false"} onClick=${() => (heard === key ? stop() : heard ? switchTo(group, key) : toggle(group, key))}>
      ${key}<small>${key === "X" ? "unknown" : key === "A" ? test.a.label : test.b.label}</small></button>`)}</div>
    <div class="row"><button class="main" onClick=${() => answer(true)}>X is A</button><button class="main" onClick=${() => answer(false)}>X is B</button><button class="plain" onClick=${onEnd}>End the test</button>
      <span class="small soft"><kbd>A</kbd> <kbd>B</kbd> <kbd>X</kbd> switch. ${many(answered, "answer")} so far.</span></div></section>`;
}
