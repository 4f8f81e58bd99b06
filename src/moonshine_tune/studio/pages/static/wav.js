// 16-bit PCM in a WAV file.

/** One channel of samples from −1 to 1 as the bytes of a WAV file. */
export function encodeWav(samples, rate) {
  const buffer = new ArrayBuffer(44 + 2 * samples.length);
  const view = new DataView(buffer);
  const text = (offset, word) => [...word].forEach((letter, index) => view.setUint8(offset + index, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  for (let index = 0; index < samples.length; index += 1) {
    const value = Math.max(-1, Math.min(1, samples[index]));
    view.setInt16(44 + 2 * index, Math.round(value * 32767), true);
  }
  return buffer;
}

/** The samples of such a file. */
export function decodeWav(buffer) {
  const view = new DataView(buffer);
  const samples = new Float32Array((buffer.byteLength - 44) / 2);
  for (let index = 0; index < samples.length; index += 1) samples[index] = view.getInt16(44 + 2 * index, true) / 32767;
  return { samples, rate: view.getUint32(24, true) };
}
