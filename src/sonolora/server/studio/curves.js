// Loss over steps: training thin, held-out thick with its interval, the best step marked; by noise level on demand.
import uPlot from "uplot";
import { html, useEffect, useRef, useState } from "./lib.js";

export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// The mean of the values around each one that weighs near ones more, as far back as there are any.
export function smoothed(values, weight = 0.9) {
  let sum = 0;
  let total = 0;
  return values.map((value) => {
    if (value === null || value === undefined) return null;
    sum = sum * weight + value;
    total = total * weight + 1;
    return sum / total;
  });
}

// Held-out loss with the interval of its difference from the base, around the base's own loss.
export function heldOut(rows) {
  return rows.filter((row) => typeof row.held_out_loss === "number").map((row) => {
    const [, low, high] = row.held_out_difference ?? [];
    const base = row.base_held_out_loss;
    const known = typeof base === "number" && typeof low === "number" && typeof high === "number";
    return { step: row.step, loss: row.held_out_loss, base, low: known ? base + low : row.held_out_loss, high: known ? base + high : row.held_out_loss };
  });
}

export function Curves({ rows, evaluation, steps }) {
  const box = useRef(null);
  const plot = useRef(null);
  const [levels, setLevels] = useState(false);
  const [log, setLog] = useState(false);
  const held = heldOut(rows);
  const evaluated = rows.filter((row) => row.train_eval_loss !== undefined);
  const bySigma = (row) => row.held_out_loss_by_sigma ?? row.train_eval_loss_by_sigma ?? {};
  const sigmas = [...new Set(evaluated.flatMap((row) => Object.keys(bySigma(row))))].sort((a, b) => a - b);
  const shape = `${levels}${log}${held.length > 0}${evaluated.length > 0}${sigmas}`;

  useEffect(() => {
    const all = [...new Set([...rows.map((row) => row.step), ...held.map((row) => row.step)])].sort((a, b) => a - b);
    if (!all.length) return;
    const by = new Map(rows.map((row) => [row.step, row]));
    const other = new Map(held.map((row) => [row.step, row]));
    const column = (pick) => all.map((step) => pick(by.get(step) ?? {}, other.get(step) ?? {}) ?? null);
    const loss = column((row) => row.loss);
    const ink = colour("--ink");
    const grid = { stroke: colour("--line"), width: 1 };
    const axis = { stroke: colour("--soft"), grid, ticks: grid, font: "12px system-ui, sans-serif" };
    const accent = colour("--accent");
    const series = [{ label: "step" }];
    const data = [all];
    const bands = [];
    const add = (values, options) => {
      series.push({ spanGaps: true, points: { show: false }, value: (_, value) => (value === null ? "–" : value.toPrecision(4)), ...options });
      data.push(values);
    };
    if (levels) {
      sigmas.forEach((sigma, index) => add(column((row) => bySigma(row)[sigma]), {
        label: `σ ${sigma}`, stroke: `hsl(${175 + (150 * index) / Math.max(1, sigmas.length - 1)} 55% ${matchMedia("(prefers-color-scheme: dark)").matches ? 65 : 40}%)`, width: 2, points: { show: true, size: 5 } }));
    } else {
      add(loss, { label: "training", stroke: `${colour("--soft")}66`, width: 1 });
      add(smoothed(loss), { label: "smoothed", stroke: colour("--soft"), width: 1.25 });
      if (held.length) {
        add(column((_, row) => row.high), { label: "at most", stroke: "transparent" });
        add(column((_, row) => row.low), { label: "at least", stroke: "transparent" });
        bands.push({ series: [3, 4], fill: `${accent}33` });
        add(column((_, row) => row.base), { label: "base", stroke: ink, width: 1, dash: [5, 5] });
        add(column((_, row) => row.loss), { label: "held out", stroke: accent, width: 3, points: { show: true, size: 7, fill: accent } });
      } else if (evaluated.length) {
        add(column((row) => row.train_eval_loss), { label: "training clips, fixed noise", stroke: accent, width: 3, points: { show: true, size: 7, fill: accent } });
      }
    }
    const best = evaluation?.best?.step ?? rows.filter((row) => typeof row.best_step === "number").at(-1)?.best_step;
    const mark = (u) => {
      if (typeof best !== "number") return;
      const x = u.valToPos(best, "x", true);
      u.ctx.save();
      u.ctx.strokeStyle = ink;
      u.ctx.setLineDash([4, 4]);
      u.ctx.beginPath();
      u.ctx.moveTo(x, u.bbox.top);
      u.ctx.lineTo(x, u.bbox.top + u.bbox.height);
      u.ctx.stroke();
      u.ctx.fillStyle = ink;
      u.ctx.font = `${12 * devicePixelRatio}px system-ui, sans-serif`;
      u.ctx.fillText(` best: ${best}`, x, u.bbox.top + 14 * devicePixelRatio);
      u.ctx.restore();
    };
    if (plot.current?.shape === shape) {
      plot.current.chart.setData(data);
      return;
    }
    plot.current?.chart.destroy();
    const chart = new uPlot({
      width: box.current.clientWidth || 600, height: 280, series, bands,
      scales: { x: { time: false, range: (_, low, high) => [0, Math.max(high, low + 1)] }, y: { distr: log ? 3 : 1 } },
      axes: [axis, { ...axis, size: 56 }], cursor: { drag: { x: true, y: false } }, legend: { live: true }, hooks: { draw: [mark] },
    }, data, box.current);
    plot.current = { chart, shape };
  });
  useEffect(() => {
    const watcher = new ResizeObserver(() => plot.current?.chart.setSize({ width: box.current.clientWidth, height: 280 }));
    watcher.observe(box.current);
    return () => {
      watcher.disconnect();
      plot.current?.chart.destroy();
      plot.current = null;
    };
  }, []);
  const first = evaluated[0]?.train_eval_loss;
  const last = evaluated.at(-1)?.train_eval_loss;
  return html`<div class="row"><div class="segmented" role="group" aria-label="Curves">
      <button aria-pressed=${levels ? "false" : "true"} onClick=${() => setLevels(false)}>Loss</button>
      <button aria-pressed=${levels ? "true" : "false"} disabled=${!sigmas.length} onClick=${() => setLevels(true)}>By noise level</button></div>
      <label class="check small"><input type="checkbox" checked=${log} onChange=${(e) => setLog(e.currentTarget.checked)} /><span>Logarithmic</span></label>
      ${!held.length && evaluated.length > 0 && html`<span class="small soft">No held-out clips: the thick line is on training clips, with fixed noise.</span>`}</div>
    ${rows.length === 0 && html`<p class="soft">The first values appear with the first steps.</p>`}
    <div class="chart" ref=${box} role="img" aria-label=${`Loss over ${steps} steps${first ? `: from ${first.toFixed(4)} before training to ${last.toFixed(4)}` : ""}`} />`;
}
