// The microphone: open, measured all the time, recorded on request, stopped at silence.

/** dB below full scale of a block; silence is −100. */
export function levelOf(samples) {
  let sum = 0;
  for (const sample of samples) sum += sample * sample;
  return Math.max(-100, 10 * Math.log10(sum / samples.length + 1e-10));
}

/**
 * Where speech starts and ends, by the level above the noise of the room.
 *
 * The floor is the quietest level of the last seconds, so that a fan does not count as speech, and
 * follows what a room does. Speech is 9 dB above it for 80 ms; a pause of `pause_s` ends it.
 */
export class SpeechEnd {
  constructor(pause_s = 1.2) {
    this.pause_s = pause_s;
    this.floors = [];
    this.smooth = -100;
    this.reset();
  }

  /** Starts a recording; what is known of the room stays. */
  reset() {
    this.time = 0;
    this.loud_s = 0;
    this.onset_s = null;
    this.last_s = null;
  }

  get floor() {
    return this.floors.length ? Math.min(...this.floors.map(([, level]) => level)) : -70;
  }

  get threshold() {
    return Math.min(Math.max(this.floor + 9, -58), -24);
  }

  /** One block; returns whether speech was there and has ended. */
  add(level, seconds) {
    this.smooth = level > this.smooth ? level : this.smooth + (level - this.smooth) * Math.min(1, seconds / 0.06);
    this.floors.push([seconds, this.smooth]);
    let kept = this.floors.reduce((sum, [size]) => sum + size, 0);
    while (kept > 4) kept -= this.floors.shift()[0];
    this.time += seconds;
    if (this.smooth > this.threshold) {
      this.loud_s += seconds;
      if (this.loud_s >= 0.08) {
        this.onset_s ??= this.time - this.loud_s;
        this.last_s = this.time;
      }
    } else {
      this.loud_s = 0;
    }
    return this.last_s !== null && this.time - this.last_s >= this.pause_s;
  }
}

const LONGEST_S = 40;
const NO_SPEECH_S = 10;
// What is kept before the first and after the last word.
const MARGIN_S = 0.5;

async function withCapture(context) {
  try {
    await context.audioWorklet.addModule("/static/capture-worklet.js");
  } catch (error) {
    context.close();
    throw error;
  }
  return context;
}

/** Why there is no microphone, and what to do. */
export function whyNoMicrophone(error) {
  if (!window.isSecureContext || !navigator.mediaDevices) {
    return ["A browser opens the microphone on this machine's own address (127.0.0.1) and on https pages alone.",
      "On a phone: record with its own app, bring the files here, and drop them under Label. Or record on the machine where the studio runs."];
  }
  if (error?.name === "NotAllowedError") {
    return ["The browser does not allow this page to use the microphone.",
      "Allow it with the symbol beside the address, then press Record again."];
  }
  if (error?.name === "NotFoundError") return ["There is no microphone.", "Connect one, then press Record again."];
  if (error?.name === "NotReadableError") return ["Another program holds the microphone.", "Close it there, then press Record again."];
  return [`The microphone did not open: ${error?.message ?? error}.`, "Choose another device, then press Record again."];
}

/** One open device. `onlevel(dB, isSpeech)` is called for every block, `onend(samples, rate, reason)` once a recording. */
export class Microphone {
  constructor() {
    this.onlevel = () => {};
    this.onend = () => {};
    this.stopsAtSilence = true;
    this.blocks = null;
    this.before = [];
    this.end = new SpeechEnd();
  }

  /** Loads what runs on the audio thread, so that a microphone opens while the studio is gone. */
  async prepare() {
    this.prepared ??= withCapture(new AudioContext());
    await this.prepared;
  }

  get isOpen() {
    return this.context !== undefined && this.stream?.active;
  }

  get isRecording() {
    return this.blocks !== null;
  }

  /** Opens a device, or the browser's choice. Throws what getUserMedia throws. */
  async open(device) {
    this.close();
    const plain = { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: 1 };
    this.stream = await navigator.mediaDevices.getUserMedia({
      audio: device ? { ...plain, deviceId: { exact: device } } : plain,
    });
    const track = this.stream.getAudioTracks()[0];
    // The device's own rate, so that the browser does not resample: the server does it well, once.
    const rate = track.getSettings().sampleRate;
    this.context = await this.#contextOf(rate);
    await this.context.resume();
    const source = this.context.createMediaStreamSource(this.stream);
    const capture = new AudioWorkletNode(this.context, "capture", { numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    capture.port.onmessage = (event) => this.#receive(event.data);
    source.connect(capture);
    track.addEventListener("ended", () => { if (this.isRecording) this.stop("unplugged"); });
    this.end = new SpeechEnd();
    this.before = [];
  }

  async #contextOf(rate) {
    const prepared = await this.prepared?.catch(() => undefined);
    this.prepared = undefined;
    if (prepared && (!rate || prepared.sampleRate === rate)) return prepared;
    try {
      const context = await withCapture(new AudioContext(rate ? { sampleRate: rate } : {}));
      prepared?.close();
      return context;
    } catch (error) {
      // Without the studio, the one that is there: the browser then resamples.
      if (prepared) return prepared;
      throw error;
    }
  }

  get device() {
    return this.stream?.getAudioTracks()[0]?.getSettings().deviceId;
  }

  close() {
    this.blocks = null;
    this.stream?.getTracks().forEach((track) => track.stop());
    this.context?.close();
    this.stream = this.context = undefined;
  }

  record() {
    // A tenth of a second before the key was pressed: some people speak at once.
    this.blocks = this.before.slice();
    this.length = this.blocks.reduce((sum, block) => sum + block.length, 0);
    this.preroll_s = this.length / this.context.sampleRate;
    this.end.reset();
  }

  /** Ends a recording; `onend` gets its samples. */
  stop(reason = "stopped") {
    if (!this.isRecording) return;
    const samples = new Float32Array(this.length);
    let offset = 0;
    for (const block of this.blocks) {
      samples.set(block, offset);
      offset += block.length;
    }
    this.blocks = null;
    const { rate, first, last } = this.#speech(reason);
    this.onend(samples.subarray(first, last ?? samples.length), rate, reason);
  }

  discard() {
    this.blocks = null;
  }

  #speech(reason) {
    const rate = this.context.sampleRate;
    const { onset_s: onset, last_s: end } = this.end;
    if (onset === null) return { rate, first: 0 };
    const at = (seconds) => Math.round((this.preroll_s + seconds) * rate);
    return { rate, first: Math.max(0, at(onset - MARGIN_S)), last: reason === "silence" ? at(end + MARGIN_S) : undefined };
  }

  #receive(block) {
    if (!this.context) return;
    const seconds = block.length / this.context.sampleRate;
    const level = levelOf(block);
    const hasEnded = this.end.add(level, seconds);
    this.onlevel(level, level > this.end.threshold);
    if (!this.isRecording) {
      this.before.push(block);
      while (this.before.length * seconds > 0.15) this.before.shift();
      return;
    }
    this.blocks.push(block);
    this.length += block.length;
    if (this.end.time >= LONGEST_S) this.stop("longest");
    else if (this.stopsAtSilence && hasEnded) this.stop("silence");
    else if (this.stopsAtSilence && this.end.onset_s === null && this.end.time >= NO_SPEECH_S) this.stop("no speech");
  }
}

/** The microphones that the browser names, once it was allowed to. */
export async function microphones() {
  if (!navigator.mediaDevices) return [];
  const devices = await navigator.mediaDevices.enumerateDevices();
  return devices.filter((device) => device.kind === "audioinput" && device.deviceId && device.label);
}
