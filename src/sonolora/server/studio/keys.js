// Keys: who may use the server.
import { html, useEffect, useState } from "./lib.js";
import { del, get, post, session } from "./api.js";
import { ago, failed } from "./ui.js";

const HELP = { member: "sees what its owner has", operator: "sees and changes everything" };

export function KeysView() {
  const [keys, setKeys] = useState(null);
  const [name, setName] = useState("");
  const [owner, setOwner] = useState("");
  const [role, setRole] = useState("member");
  const operator = session.value.key.role === "operator";
  const [made, setMade] = useState(null);
  const load = () => get("keys").then((data) => setKeys(data.keys), failed);
  useEffect(() => void load(), []);
  const add = async (event) => {
    event.preventDefault();
    try {
      setMade(await post("keys", { name, owner: owner.trim() || null, role }));
      setName("");
      setOwner("");
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
    <div class="head" style=${{ marginBottom: 0 }}><div class="grow"><h1>Keys</h1><p>${operator ? "What is made with a key belongs to its owner, who may have several keys. A member sees and changes what its owner has, an operator everything." : `The keys of ${session.value.key.owner}. An operator makes new ones.`}</p></div></div>
    ${operator && html`<form class="panel row" onSubmit=${add} style=${{ alignItems: "flex-end" }}><div class="grow"><label class="label" for="key-name">Make a key for</label><input id="key-name" required maxlength="120" placeholder="a person or a machine" value=${name} onInput=${(e) => setName(e.currentTarget.value)} /></div>
      <div><label class="label" for="key-owner">Owner</label><input id="key-owner" maxlength="120" placeholder=${name || "the same"} list="key-owners" value=${owner} onInput=${(e) => setOwner(e.currentTarget.value)} />
        <datalist id="key-owners">${[...new Set((keys ?? []).map((key) => key.owner))].map((one) => html`<option value=${one} />`)}</datalist></div>
      <div><label class="label" for="key-role">Role</label><select id="key-role" value=${role} onChange=${(e) => setRole(e.currentTarget.value)}>${Object.entries(HELP).map(([one, help]) => html`<option value=${one} title=${help}>${one}</option>`)}</select></div>
      <button class="main" type="submit">Make a key</button></form>`}
    ${made && html`<div class="note good" role="status"><b>The key of ${made.name}, shown this once:</b><div class="mono" style=${{ overflowWrap: "anywhere", userSelect: "all" }}>${made.secret}</div></div>`}
    ${keys === null ? html`<p class="soft">Loading…</p>` : html`<div class="panel"><table><thead><tr><th scope="col">Name</th><th scope="col">Owner</th><th scope="col">Role</th><th scope="col">Id</th><th scope="col">Made</th><th scope="col"><span class="hidden">Revoke</span></th></tr></thead>
      <tbody>${keys.map((key) => html`<tr key=${key.id}><td><b>${key.name}</b>${key.id === session.value.key.id && html` <span class="badge accent">this one</span>`}</td><td>${key.owner}</td><td>${key.role}</td><td class="mono soft">${key.id}</td><td class="small soft">${ago(key.created)}</td>
        <td style=${{ textAlign: "right" }}>${key.revoked ? html`<span class="badge">revoked</span>` : html`<button class="small danger" onClick=${() => revoke(key)}>Revoke</button>`}</td></tr>`)}</tbody></table></div>`}
  </div>`;
}
