// Keys: who may use the server.
import { html, useEffect, useState } from "./lib.js";
import { del, get, post, session } from "./api.js";
import { ago, failed } from "./ui.js";

export function KeysView() {
  const [keys, setKeys] = useState(null);
  const [name, setName] = useState("");
  const [made, setMade] = useState(null);
  const load = () => get("keys").then((data) => setKeys(data.keys), failed);
  useEffect(() => void load(), []);
  const add = async (event) => {
    event.preventDefault();
    try {
      setMade(await post("keys", { name }));
      setName("");
      load();
    } catch (error) {
      failed(error);
    }
  };
  const revoke = (key) => {
    const own = key.id === session.value.key.id;
    if (confirm(own ? "This is the key you are logged in with: you will be logged out. Revoke it?" : `Revoke the key of ${key.name}? Its requests go on; it can make no others.`)) del(`keys/${key.id}`).then(load, failed);
  };
  return html`<div class="stack" style=${{ maxWidth: "52rem" }}>
    <div class="head" style=${{ marginBottom: 0 }}><div class="grow"><h1>Keys</h1><p>Whoever has a key sees all datasets and runs of this server, and may change them: keys are for people who share it.</p></div></div>
    <form class="panel row" onSubmit=${add} style=${{ alignItems: "flex-end" }}><div class="grow"><label class="label" for="key-name">Make a key for</label><input id="key-name" required maxlength="120" placeholder="a person or a machine" value=${name} onInput=${(e) => setName(e.currentTarget.value)} /></div>
      <button class="main" type="submit">Make a key</button></form>
    ${made && html`<div class="note good" role="status"><b>The key of ${made.name}, shown this once:</b><div class="mono" style=${{ overflowWrap: "anywhere", userSelect: "all" }}>${made.secret}</div></div>`}
    ${keys === null ? html`<p class="soft">Loading…</p>` : html`<div class="panel"><table><thead><tr><th scope="col">Name</th><th scope="col">Id</th><th scope="col">Made</th><th scope="col"><span class="hidden">Revoke</span></th></tr></thead>
      <tbody>${keys.map((key) => html`<tr key=${key.id}><td><b>${key.name}</b>${key.id === session.value.key.id && html` <span class="badge accent">this one</span>`}</td><td class="mono soft">${key.id}</td><td class="small soft">${ago(key.created)}</td>
        <td style=${{ textAlign: "right" }}>${key.revoked ? html`<span class="badge">revoked</span>` : html`<button class="small danger" onClick=${() => revoke(key)}>Revoke</button>`}</td></tr>`)}</tbody></table></div>`}
  </div>`;
}
