// Calls of the REST face. Addresses are relative to the page, which may stand below a path of a proxy.
import { signal } from "./lib.js";

export const session = signal(undefined); // undefined: not known yet; null: not logged in
export const online = signal(true);
export const modes = signal(null); // what forms are made from

// Whose a run or a dataset is, where it is somebody else's.
export const otherOwner = (one) => (one.owner && one.owner !== session.value.key.owner ? one.owner : "");

export class ApiError extends Error {
  constructor(status, detail) {
    super(Array.isArray(detail) ? detail.map(sentence).join("\n") : detail || `The server answered ${status}.`);
    this.status = status;
    this.detail = Array.isArray(detail) ? detail : [];
  }
}

function sentence(item) {
  const where = (item.loc || []).filter((part) => part !== "body").join(".");
  return where ? `${where}: ${item.msg}` : item.msg;
}

async function request(method, path, body, options = {}) {
  let answer;
  try {
    answer = await fetch(`api/${path}`, {
      method,
      headers: body === undefined ? {} : { "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
      ...options,
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    online.value = false;
    throw new ApiError(0, "The server cannot be reached.");
  }
  online.value = true;
  const data = await answer.json().catch(() => ({}));
  if (answer.status === 401 && path !== "session") session.value = null;
  if (!answer.ok) throw new ApiError(answer.status, data.detail);
  return data;
}

export const get = (path, options) => request("GET", path, undefined, options);
export const post = (path, body = {}, options) => request("POST", path, body, options);
export const put = (path, body) => request("PUT", path, body);
export const patch = (path, body) => request("PATCH", path, body);
export const del = (path) => request("DELETE", path);

// An upload with its progress, which fetch does not tell.
export function upload(path, file, onProgress = () => {}) {
  return new Promise((resolve, reject) => {
    const call = new XMLHttpRequest();
    call.open("PUT", `api/${path}`);
    call.upload.onprogress = (event) => event.lengthComputable && onProgress(event.loaded / event.total);
    call.onerror = () => reject(new ApiError(0, "The connection broke off."));
    call.onload = () => {
      let data = {};
      try {
        data = JSON.parse(call.responseText);
      } catch {
        // not JSON: a proxy's page
      }
      if (call.status < 400) resolve(data);
      else reject(new ApiError(call.status, data.detail));
    };
    call.send(file);
  });
}

const RETRY = 3000; // milliseconds

// Follows the events of a run. The browser reconnects by itself and says which event it saw last, but gives up where a
// proxy answers for a server that is down; then all events come again.
export function follow(id, handlers) {
  let source;
  let timer;
  let over = false;
  const open = () => {
    source = new EventSource(`api/runs/${id}/events`);
    for (const [kind, handle] of Object.entries(handlers)) {
      if (kind !== "lost" && kind !== "found") source.addEventListener(kind, (event) => handle(JSON.parse(event.data)));
    }
    source.addEventListener("end", () => end());
    source.onopen = () => handlers.found?.();
    source.onerror = () => {
      handlers.lost?.();
      if (!over && source.readyState === EventSource.CLOSED) timer = setTimeout(open, RETRY);
    };
  };
  const end = () => {
    over = true;
    clearTimeout(timer);
    source.close();
  };
  open();
  return end;
}
