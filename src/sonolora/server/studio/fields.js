// Form fields made from the description of a request's fields. A field knows its range and says when a value is outside.
import { html } from "./lib.js";
import { words } from "./ui.js";

// Of text with commas.
export const listOf = (text) => String(text).split(",").map((part) => part.trim()).filter(Boolean).map(Number);

export function faultOf(field, value) {
  if (value === "" || value === null || value === undefined) return field.optional || field.default !== undefined ? "" : "needed";
  if (field.type === "list") return listOf(value).some(Number.isNaN) ? "numbers with commas between them are needed" : "";
  if (field.type === "integer" && !Number.isInteger(Number(value))) return "a whole number is needed";
  if ((field.type === "integer" || field.type === "number") && Number.isNaN(Number(value))) return "a number is needed";
  if (field.minimum !== undefined && Number(value) < field.minimum) return `at least ${field.minimum}`;
  if (field.maximum !== undefined && Number(value) > field.maximum) return `at most ${field.maximum}`;
  return "";
}

export function Field({ field, value, onChange, id }) {
  const shown = value === undefined ? (field.type === "list" ? field.default.join(", ") : field.default) : value;
  const fault = faultOf(field, shown);
  const label = words(field.name);
  const help = html`<p class="help" id=${`${id}-help`}>${field.help}</p>`;
  if (field.type === "boolean") {
    return html`<div><label class="check"><input type="checkbox" id=${id} aria-describedby=${`${id}-help`} checked=${shown}
      onChange=${(event) => onChange(event.currentTarget.checked)} /><span>${label}</span></label>${help}</div>`;
  }
  const number = field.type === "integer" || field.type === "number";
  const read = (text) => (text === "" ? (field.optional ? null : "") : number && !Number.isNaN(Number(text)) ? Number(text) : text);
  let control;
  if (field.choices) {
    control = html`<select id=${id} aria-describedby=${`${id}-help`} value=${shown ?? ""}
      onChange=${(event) => onChange(read(event.currentTarget.value))}>
      ${field.optional && html`<option value="">by default</option>`}
      ${field.choices.map((choice) => html`<option value=${choice}>${choice}</option>`)}</select>`;
  } else if (!number && String(field.default ?? "").length > 60) {
    control = html`<textarea id=${id} rows="2" aria-describedby=${`${id}-help`} value=${shown ?? ""}
      onInput=${(event) => onChange(event.currentTarget.value)} />`;
  } else {
    control = html`<input id=${id} inputmode=${number ? "decimal" : "text"} aria-describedby=${`${id}-help`} aria-invalid=${!!fault}
      value=${shown ?? ""} placeholder=${field.optional ? "by default" : ""} onInput=${(event) => onChange(read(event.currentTarget.value))} />`;
  }
  return html`<div><label class="label" for=${id}>${label}</label>${control}
    ${fault && html`<p class="fault">${fault}</p>`}${help}</div>`;
}
