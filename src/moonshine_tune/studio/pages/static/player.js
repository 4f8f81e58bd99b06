// Sound: clips of the server from any second on, and samples that only this page has.

import { decodeWav } from "./wav.js";

let context;
let current;
const audio = new Audio();
audio.preload = "auto";

/** Stops whatever plays. */
export function stop() {
  audio.pause();
  current?.stop();
  current = undefined;
}

export const isPlaying = () => !audio.paused || current !== undefined;

/** Plays a recording of the server from a second on. */
export async function play(url, start_s = 0) {
  stop();
  if (audio.getAttribute("src") !== url) audio.src = url;
  audio.currentTime = start_s;
  try {
    await audio.play();
  } catch (error) {
    // A browser plays nothing before the first key or click; another clip may have come between.
    if (error.name !== "NotAllowedError" && error.name !== "AbortError") throw error;
  }
}

/** Plays the bytes of a WAV file of this page. */
export async function playWav(buffer) {
  stop();
  context ??= new AudioContext();
  await context.resume();
  const { samples, rate } = decodeWav(buffer);
  if (!samples.length) return;
  const sound = context.createBuffer(1, samples.length, rate);
  sound.copyToChannel(samples, 0);
  const source = context.createBufferSource();
  source.buffer = sound;
  source.connect(context.destination);
  source.onended = () => { if (current === source) current = undefined; };
  current = source;
  source.start();
}

/** Calls `listener` with the second that plays, until the returned function is called. */
export function onTime(listener) {
  let frame;
  const step = () => {
    listener(audio.currentTime, !audio.paused);
    if (!audio.paused) frame = requestAnimationFrame(step);
  };
  const start = () => { cancelAnimationFrame(frame); step(); };
  for (const name of ["play", "pause", "seeked", "ended"]) audio.addEventListener(name, start);
  return () => {
    cancelAnimationFrame(frame);
    for (const name of ["play", "pause", "seeked", "ended"]) audio.removeEventListener(name, start);
  };
}
