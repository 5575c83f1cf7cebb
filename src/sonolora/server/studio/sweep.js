// A sweep: what is tried, and how its LoRAs stand on held-out clips.
import uPlot from "uplot";
import { html, useEffect, useRef } from "./lib.js";
import { colour } from "./curves.js";
import { many } from "./ui.js";

// A change of the logarithm of losses, as people read it.
const share = (value) => 100 * Math.expm1(value);
const signed = (value) => `${value > 0 ? "+" : value < 0 ? "−" : ""}${Math.abs(value).toFixed(1)}`;
const percent = (one) => (one ? `${signed(share(one.mean))} %` : "–");
const interval = (one) => (typeof one?.low === "number" ? `${signed(share(one.low))} to ${signed(share(one.high))}` : "");
const titleOf = (one) => `rank ${one.rank}, ${one.learning_rate}`;

// The numbers of the members, the best first, then who trained longest.
function order({ best, members }) {
  const mean = (number) => members[number].change?.mean ?? Infinity;
  return members.map((_, number) => number).sort((a, b) => (b === best) - (a === best) || members[b].steps - members[a].steps || mean(a) - mean(b));
}

export function Sweep({ run }) {
  const { standings, members } = run.sweep;
  return html`<section class="panel stack tight"><div class="row"><h2>Sweep</h2><span class="soft small">${many(members.length, "LoRA")} on one base, compared on held-out clips</span></div>
    ${standings ? html`<${Standings} run=${run} standings=${standings} />` : html`<p class="soft">${members.map(titleOf).join(" · ")}</p>`}</section>`;
}

function Standings({ run, standings }) {
  const over = ["finished", "failed", "cancelled"].includes(run.state);
  const state = (one, number) => (number === standings.best ? "best" : one.change === null ? "diverged" : one.training && !over ? "training" : one.steps < standings.steps ? "ended" : "");
  return html`<p>${standings.summary}</p>
    <${SweepCurves} standings=${standings} />
    <div class="scroll" tabindex="0" role="region" aria-label="Members of the sweep"><table class="plain"><thead><tr><th scope="col">Rank</th><th scope="col">Learning rate</th><th scope="col">Steps</th>
      <th scope="col">Held-out loss, against the base</th><th scope="col">Behind the best</th><th scope="col"><span class="hidden">State</span></th></tr></thead>
      <tbody>${order(standings).map((number) => {
        const one = standings.members[number];
        return html`<tr key=${number}><td class="num">${one.rank}</td><td class="num">${one.learning_rate}</td><td class="num">${one.steps}</td>
          <td class="num">${percent(one.change)} <span class="soft small">${interval(one.change)}</span></td>
          <td class="num">${number === standings.best ? "–" : percent(one.behind_best)} <span class="soft small">${interval(one.behind_best)}</span></td>
          <td>${state(one, number) && html`<span class=${`badge ${{ best: "good", training: "accent", diverged: "bad" }[state(one, number)] ?? ""}`}>${state(one, number)}</span>`}</td></tr>`;
      })}</tbody></table></div>
    <p class="small soft">Intervals of 95 %. The best is chosen on the clips that measure it (${standings.held_out_clips}), so its own figure is slightly optimistic.</p>`;
}

// The change of the held-out loss by step, in percent: the best thick, the others thin.
function SweepCurves({ standings }) {
  const box = useRef(null);
  const { best, members } = standings;
  useEffect(() => {
    const steps = [...new Set(members.flatMap((one) => one.curve.map(([step]) => step)))].sort((a, b) => a - b);
    const column = (one) => {
      const by = new Map(one.curve);
      return steps.map((step) => (by.has(step) ? share(by.get(step)) : null));
    };
    const grid = { stroke: colour("--line"), width: 1 };
    const axis = { stroke: colour("--soft"), grid, ticks: grid, font: "12px system-ui, sans-serif" };
    const series = members.map((one, number) => ({ label: titleOf(one), spanGaps: true, value: (_, value) => (value == null ? "–" : `${signed(value)} %`),
      stroke: colour(number === best ? "--accent" : "--soft"), width: number === best ? 3 : 1, points: { show: number === best, size: 7 } }));
    const last = Math.max(standings.steps, 1);
    const chart = new uPlot({ width: box.current.clientWidth || 600, height: 240, series: [{ label: "step" }, ...series], legend: { live: members.length <= 8, show: members.length <= 8 },
      scales: { x: { time: false, range: [0, last] } }, axes: [axis, { ...axis, size: 56, values: (_, ticks) => ticks.map((one) => `${one} %`) }] },
    [steps, ...members.map(column)], box.current);
    const watcher = new ResizeObserver(() => chart.setSize({ width: box.current.clientWidth, height: 240 }));
    watcher.observe(box.current);
    return () => {
      watcher.disconnect();
      chart.destroy();
    };
  }, [standings.step, best]);
  return html`<div class="chart" ref=${box} role="img" aria-label=${`Held-out loss against the base over ${standings.steps} steps. ${standings.summary}`} />`;
}
