// Several sounds that play at once, of which one is heard: switching keeps the place in time, without a gap.
//
// In: decoded buffers and their gains. Out: nodes that all start at the same moment; a switch is a crossfade of 5 ms.
// The context may be an offline one, which is how this is tested.
export const CROSSFADE = 0.005;

export function startVoices(context, destination, voices, active, offset = 0, when = context.currentTime) {
  const nodes = new Map();
  for (const { key, buffer, gain } of voices) {
    const source = context.createBufferSource();
    source.buffer = buffer;
    const level = context.createGain();
    level.gain.setValueAtTime(key === active ? gain : 0, when);
    source.connect(level).connect(destination);
    if (offset < buffer.duration) source.start(when, offset);
    nodes.set(key, { source, level, gain });
  }
  let heard = active;
  return {
    get heard() {
      return heard;
    },
    switchTo(key, at = context.currentTime) {
      if (key === heard || !nodes.has(key)) return;
      for (const [one, { level, gain }] of nodes) {
        if (one !== key && one !== heard) continue;
        level.gain.cancelScheduledValues(at);
        level.gain.setValueAtTime(one === heard ? gain : 0, at);
        level.gain.linearRampToValueAtTime(one === key ? gain : 0, at + CROSSFADE);
      }
      heard = key;
    },
    setGain(key, gain) {
      const node = nodes.get(key);
      if (!node) return;
      node.gain = gain;
      if (key === heard) node.level.gain.setTargetAtTime(gain, context.currentTime, 0.01);
    },
    stop() {
      for (const { source, level } of nodes.values()) {
        const now = context.currentTime;
        level.gain.cancelScheduledValues(now);
        level.gain.setTargetAtTime(0, now, 0.003);
        try {
          source.stop(now + 0.03);
        } catch {
          // it has not started: the sound is shorter than the offset
        }
      }
    },
  };
}

// The gain of each sound that makes all as loud as the quietest, so that none clips. `lufs` null: silence, left alone.
export function matchedGains(loudness) {
  const known = loudness.filter((lufs) => lufs !== null && lufs !== undefined);
  const target = known.length ? Math.min(...known) : 0;
  return loudness.map((lufs) => (lufs === null || lufs === undefined ? 1 : 10 ** ((target - lufs) / 20)));
}
