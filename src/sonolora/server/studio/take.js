// Take it: the files of a finished run, how to use them, and its way to the hub.
import { html, useEffect, useState } from "./lib.js";
import { get, post } from "./api.js";
import { Icon, bytes, failed, kept, keep } from "./ui.js";

export function Take({ run }) {
  const [card, setCard] = useState(null);
  useEffect(() => void (run.state === "finished" && get(`runs/${run.id}/card`).then((found) => setCard(found.card), failed)), [run.state]);
  if (run.state !== "finished") return html`<p class="soft">When the run is finished its files are here.</p>`;
  const base = run.base === "tiny";
  return html`<div class="stack">
    <section class="panel stack tight"><h2>Files</h2>
      <table><tbody>${run.outputs.map((file) => html`<tr key=${file.url}><td><b>${file.file_name}</b><div class="small soft">${file.what}</div></td><td class="num soft">${bytes(file.file_size)}</td>
        <td style=${{ textAlign: "right" }}><a class="button small" href=${file.url} download=${file.file_name}><${Icon} name="down" size=${16} /> Download</a></td></tr>`)}
        ${run.reports.map((file) => html`<tr key=${file.name}><td><b>${file.name}</b><div class="small soft">${REPORTS[file.name] ?? ""}</div></td><td></td>
        <td style=${{ textAlign: "right" }}><a class="button small" href=${file.url} download=${file.name}><${Icon} name="down" size=${16} /> Download</a></td></tr>`)}</tbody></table></section>
    <section class="panel stack tight"><h2>Use it in ComfyUI</h2>
      <p>Put <span class="mono">lora.safetensors</span> into <span class="mono">models/loras</span> and choose it in a LoraLoaderModelOnly node between the LTX-2.3 checkpoint and the sampler.${" "}
        ${run.fields.trigger_phrase ? html`Begin the prompt with “${run.fields.trigger_phrase}”, at strength 1.` : "Prompt it in the words of its captions, at strength 1."}</p>
      ${base && html`<p class="note warn">This LoRA is of the base tiny, which is for trying things out: it does not fit LTX-2.3.</p>`}</section>
    <section class="panel stack tight"><h2>Go on from it</h2><div class="row">${run.dataset && html`<a class="button" href=${`#/start/${run.dataset.id}/${run.id}/continue`}>Train this LoRA further</a>
      <a class="button" href=${`#/start/${run.dataset.id}/${run.id}`}>A new training with its fields</a>`}
      <a class="button" href=${`#/runs/${run.id}/listen`}>New sounds from it</a></div></section>
    <section class="panel stack tight"><h2>Model card</h2>${card === null ? html`<p class="soft">Loading…</p>` : html`<textarea class="mono" rows="14" aria-label="Model card" value=${card} onInput=${(e) => setCard(e.currentTarget.value)} />
      <div class="row"><a class="button small" href=${`data:text/markdown;charset=utf-8,${encodeURIComponent(card)}`} download="README.md"><${Icon} name="down" size=${16} /> README.md</a></div>`}</section>
    <${Hub} run=${run} card=${card} />
  </div>`;
}

const REPORTS = {
  "best.safetensors": "the LoRA of the step that held-out clips found best",
  "report.html": "what happened to every clip, with sounds and pictures", "report.json": "the same for programs", "metrics.jsonl": "loss by step",
  "evaluation.json": "held-out clips against the base", "evaluation.html": "held-out clips against the base, to listen to",
};

function Hub({ run, card }) {
  const [repo, setRepo] = useState(kept("hub.repo", ""));
  const [token, setToken] = useState("");
  const [isPrivate, setPrivate] = useState(true);
  const [state, setState] = useState(null);
  const push = async (event) => {
    event.preventDefault();
    keep("hub.repo", repo);
    setState("pushing");
    try {
      const { url } = await post(`runs/${run.id}/hub`, { repo, token, private: isPrivate, card });
      setState(url);
    } catch (error) {
      setState(null);
      failed(error);
    }
  };
  return html`<section class="panel stack tight"><h2>Hugging Face hub</h2>
    <form class="stack tight" onSubmit=${push}><div class="fields"><div><label class="label" for="repo">Repository</label><input id="repo" required pattern="[^/ ]+/[^/ ]+" placeholder="name/repository" value=${repo} onInput=${(e) => setRepo(e.currentTarget.value)} /></div>
      <div><label class="label" for="token">Token with write access</label><input id="token" type="password" autocomplete="off" required value=${token} onInput=${(e) => setToken(e.currentTarget.value)} /><p class="help">Used for this upload, and not kept.</p></div></div>
      <label class="check"><input type="checkbox" checked=${isPrivate} onChange=${(e) => setPrivate(e.currentTarget.checked)} /><span>Private</span></label>
      <div class="row"><button class="main" disabled=${state === "pushing"} type="submit">${state === "pushing" ? "Uploading…" : "Upload LoRA, configuration, previews and card"}</button>
        ${state && state !== "pushing" && html`<span class="small" role="status">There it is: ${state}</span>`}</div></form></section>`;
}
