// Takes on their way to the server. Each lies in the browser's own storage until it is answered.

import { request } from "./api.js";

function opened() {
  return new Promise((resolve, reject) => {
    const opening = indexedDB.open("moonshine-tune-studio", 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore("takes", { keyPath: "id" });
    opening.onsuccess = () => resolve(opening.result);
    opening.onerror = () => reject(opening.error);
  });
}

async function stored(mode, use) {
  const database = await opened();
  try {
    return await new Promise((resolve, reject) => {
      // Strict: what is said to be kept is on the disk.
      const transaction = database.transaction("takes", mode, { durability: "strict" });
      const operation = use(transaction.objectStore("takes"));
      transaction.oncomplete = () => resolve(operation.result);
      transaction.onerror = transaction.onabort = () => reject(transaction.error);
    });
  } finally {
    database.close();
  }
}

const save = (take) => stored("readwrite", (takes) => takes.put(take));
const remove = (id) => stored("readwrite", (takes) => takes.delete(id));

/** Takes that wait, the oldest first. */
export async function waiting() {
  const takes = await stored("readonly", (store) => store.getAll());
  return takes.sort((a, b) => a.time - b.time);
}

function newId() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A take of a prompt, kept in the browser before anything else happens to it. */
export async function keepTake(prompt, wav, project) {
  const take = { id: newId(), prompt: prompt.id, text: prompt.text, wav, project, time: Date.now() };
  try {
    await save(take);
  } catch {
    // Private windows may have no storage; the take is then sent from memory alone.
  }
  return take;
}

/** Sends a take. It leaves the browser once the server has answered, whatever the verdict. */
export async function send(take, { keep = false } = {}) {
  const query = new URLSearchParams({ prompt: take.prompt, take: take.id });
  if (keep) {
    // A refused one was not in the storage any more; sent later, it is still to be kept.
    take.keep = true;
    await save(take).catch(() => {});
  }
  if (take.keep) query.set("keep", "1");
  let answer;
  try {
    answer = await request("POST", `/api/takes?${query}`, take.wav, "audio/wav");
  } catch (error) {
    // The server has answered that it cannot use it at all; it would say so again.
    if (!error.isTemporary && ![401, 403].includes(error.status) && error.status < 500) await remove(take.id).catch(() => {});
    throw error;
  }
  await remove(take.id).catch(() => {});
  return answer;
}
