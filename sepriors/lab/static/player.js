/* The listening panel: versions of one recording on one playhead, at one gain.

   Every version has its own <audio> element; all run together and all but one are hushed, so that a switch is a change of
   two volumes and no sample is lost. A page opened from file:// may not read the audio as data, so Web Audio is no option here.
   Without this script each version keeps the browser's own player. */
(function () {
  "use strict";
  if (window.sepriorsPlayers) return; // a notebook carries one copy of the script in every panel
  window.sepriorsPlayers = true;

  const TICK = 100; // ms between two looks at the versions' drift
  const HURRY = 3; // 1/s; per second of drift, how much faster a hushed version runs: 30 % less drift a tick
  const TIGHT = 0.004; // s of drift that nobody hears
  const LOOSE = 0.02; // s of drift at which a switch seeks
  const FAR = 0.15; // s of drift at which a hushed version seeks instead of hurrying
  const PATIENCE = 1500; // ms to wait for the slowest version before the others play without it
  const QUIET = -30; // dB; the slider's lower end
  // -120 dB, below the last bit of any converter. Not 0, and not `muted`: Chromium then gives the element a clock without a
  // sound card, and a switch costs 60 to 120 ms of stall and jump. Where a page may not set the volume (iOS), `muted` it is.
  const HUSHED = 1e-6;
  const probe = new Audio();
  probe.volume = 0.5;
  const CAN_HUSH = probe.volume === 0.5;

  let playing = null; // the one panel of the page that plays

  function element(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }

  function ready(audio) {
    return !audio.seeking && audio.readyState >= 3;
  }

  class Player {
    constructor(root) {
      this.root = root;
      this.seconds = Number(root.dataset.seconds);
      this.position = 0; // seconds; what the playhead shows while nothing plays
      this.seeked = 0; // time of the last hard seek of a hushed version, ms
      this.versions = Array.from(root.querySelectorAll("li"), (item) => ({
        name: item.querySelector(".sp-name").textContent,
        level: item.querySelector(".sp-level").textContent,
        audio: item.querySelector("audio"),
        failed: false,
      }));
      this.active = 0;
      this.build();
      this.listen();
      this.choose(0);
      this.show();
    }

    get audio() {
      return this.versions[this.active].audio;
    }

    get usable() {
      return this.versions.filter((version) => !version.failed).map((version) => version.audio);
    }

    get isPlaying() {
      return playing === this;
    }

    get keys() {
      const last = Math.min(9, this.versions.length);
      return "Space plays, " + (last > 1 ? "1–" + last + " or ← → switch, " : "") + "[ ] seek 1 s";
    }

    // ---- the controls -----------------------------------------------------------------------------------------------

    build() {
      this.toggle = element("button", { type: "button", class: "sp-toggle", "aria-label": "Play" });
      this.bar = element("input", {
        type: "range", class: "sp-seek", "aria-label": "Position", min: 0, max: this.seconds, step: 0.01, value: 0,
      });
      this.clock = element("span", { class: "sp-clock", "aria-hidden": "true" });
      this.loop = element("button", { type: "button", class: "sp-loop", "aria-pressed": "false" }, "Loop");
      this.volume = element("input", {
        type: "range", class: "sp-volume", "aria-label": "Gain of all versions", min: QUIET, max: 0, step: 1, value: 0,
      });
      this.gain = element("span", { class: "sp-gain", "aria-hidden": "true" });
      this.live = element("span", { class: "sp-hidden", role: "status", "aria-live": "polite" });
      this.alert = element("p", { class: "sp-alert", role: "alert" });
      this.radios = this.versions.map((version, i) => {
        const key = element("span", { class: "sp-key", "aria-hidden": "true" }, i < 9 ? String(i + 1) : "");
        const name = element("span", { class: "sp-name" }, version.name);
        const level = element("span", { class: "sp-level" }, version.level);
        return element("button", { type: "button", role: "radio", class: "sp-radio", "aria-checked": "false" }, key, name, " ", level);
      });

      const list = this.root.querySelector(".sp-versions");
      const store = element("div", { hidden: "" }, ...this.versions.map((version) => version.audio));
      const transport = element("div", { class: "sp-transport" }, this.toggle, this.bar, this.clock);
      const group = element("div", { class: "sp-radios", role: "radiogroup", "aria-label": "Version" }, ...this.radios);
      const level = element("label", { class: "sp-level-control" }, "Gain", this.volume, this.gain);
      const more = element(
        "div", { class: "sp-more" }, this.loop, level, element("span", { class: "sp-keys" }, this.keys)
      );
      list.replaceWith(transport, group, more, this.alert, this.live, store);
      this.root.tabIndex = -1; // a click anywhere in the panel gives it the keyboard
      this.root.dataset.lmSuppressShortcuts = "true"; // JupyterLab: digits and arrows belong to the panel here
      this.root.classList.add("sp-ready");
    }

    listen() {
      this.toggle.addEventListener("click", () => this.playOrPause());
      this.bar.addEventListener("input", () => this.seek(Number(this.bar.value)));
      this.loop.addEventListener("click", () => {
        this.loop.setAttribute("aria-pressed", String(this.loop.getAttribute("aria-pressed") !== "true"));
      });
      this.volume.addEventListener("input", () => this.setGain());
      this.radios.forEach((radio, i) => radio.addEventListener("click", () => this.choose(i)));
      this.root.addEventListener("keydown", (event) => this.key(event));
      // Metadata only until somebody shows an interest: a page has many panels.
      for (const sign of ["pointerenter", "focusin"]) {
        this.root.addEventListener(sign, () => this.versions.forEach((v) => (v.audio.preload = "auto")), { once: true });
      }
      this.versions.forEach((version, i) => {
        const audio = version.audio;
        audio.controls = false;
        audio.preservesPitch = false; // a hushed version that hurries needs no pitch, only little work
        audio.addEventListener("ended", () => i === this.active && this.ended());
        audio.addEventListener("error", () => this.fail(i));
        if (audio.error) this.fail(i);
      });
      this.setGain();
    }

    // ---- what the controls do ---------------------------------------------------------------------------------------

    playOrPause() {
      if (this.isPlaying) this.pause();
      else this.play();
    }

    play() {
      if (this.versions[this.active].failed) return;
      if (playing) playing.pause();
      playing = this;
      if (this.position > this.seconds - 0.05) this.position = 0;
      this.versions.forEach(({ audio }) => {
        audio.playbackRate = 1;
        if (Math.abs(audio.currentTime - this.position) > TIGHT) audio.currentTime = this.position;
      });
      this.start();
      this.timer = setInterval(() => this.align(), TICK);
      this.follow();
    }

    /* All versions at once, when all of them can play: they run in step only if they begin in step. */
    start() {
      this.usable.forEach((audio) => {
        if (!ready(audio)) this.run(audio); // iOS loads only what was played at the reader's own touch
        audio.pause();
      });
      this.begin(performance.now() + PATIENCE);
    }

    begin(deadline) {
      clearTimeout(this.waiting);
      if (this.usable.every(ready) || performance.now() > deadline) this.usable.forEach((audio) => this.run(audio));
      else this.waiting = setTimeout(() => this.begin(deadline), 10);
    }

    run(audio) {
      audio.play().catch((error) => {
        if (error.name === "NotAllowedError") this.refuse();
        // AbortError: paused before it began. Anything else arrives as the element's own error event.
      });
    }

    refuse() {
      this.pause();
      this.alert.textContent = "The browser did not allow this page to play audio.";
    }

    pause() {
      this.position = this.audio.currentTime;
      this.stop();
    }

    stop() {
      if (this.isPlaying) playing = null;
      clearInterval(this.timer);
      clearTimeout(this.waiting);
      this.versions.forEach(({ audio }) => {
        audio.pause();
        audio.playbackRate = 1;
      });
      this.show();
    }

    ended() {
      if (!this.isPlaying) return;
      if (this.loop.getAttribute("aria-pressed") === "true") {
        this.seek(0);
      } else {
        this.position = this.seconds;
        this.stop();
      }
    }

    seek(seconds) {
      this.position = Math.min(Math.max(seconds, 0), this.seconds);
      this.versions.forEach(({ audio }) => (audio.currentTime = this.position));
      if (this.isPlaying) this.start();
      this.show();
    }

    choose(index) {
      if (this.versions[index].failed) return;
      const before = this.audio;
      const after = this.versions[index].audio;
      after.playbackRate = 1;
      if (this.isPlaying && Math.abs(after.currentTime - before.currentTime) > LOOSE) {
        after.currentTime = before.currentTime;
      }
      const changed = index !== this.active;
      this.active = index;
      this.mix();
      this.radios.forEach((radio, i) => {
        radio.setAttribute("aria-checked", String(i === index));
        radio.tabIndex = i === index ? 0 : -1;
      });
      if (this.isPlaying && after.ended) this.ended(); // it was a few ms ahead
      if (changed) this.live.textContent = "Version: " + this.versions[index].name;
    }

    /* Step to the next version that can be played; the focus goes along if it was on a version. */
    step(direction) {
      const count = this.versions.length;
      let next = this.active;
      do next = (next + direction + count) % count;
      while (this.versions[next].failed && next !== this.active);
      this.choose(next);
      if (this.radios.includes(document.activeElement)) this.radios[next].focus();
    }

    setGain() {
      const decibels = Number(this.volume.value);
      const text = (decibels < 0 ? "−" + -decibels : "0") + " dB";
      this.gain.textContent = text;
      this.volume.setAttribute("aria-valuetext", text);
      this.mix();
    }

    /* One version at the shared gain, the others hushed. */
    mix() {
      const gain = Math.pow(10, Number(this.volume.value) / 20);
      this.versions.forEach(({ audio }, i) => {
        const audible = i === this.active;
        if (CAN_HUSH) audio.volume = audible ? gain : HUSHED;
        else audio.muted = !audible;
      });
    }

    fail(index) {
      const version = this.versions[index];
      if (version.failed) return;
      version.failed = true;
      this.radios[index].disabled = true;
      this.radios[index].querySelector(".sp-level").textContent = "could not be loaded";
      const failed = this.versions.filter((v) => v.failed).map((v) => v.name);
      this.alert.textContent = "Audio could not be loaded: " + failed.join(", ") + ".";
      if (failed.length === this.versions.length) {
        this.stop();
        this.toggle.disabled = this.bar.disabled = true;
      } else if (index === this.active) this.step(1);
    }

    // ---- while it plays ---------------------------------------------------------------------------------------------

    /* Each element has its own clock. The hushed ones follow the audible one by their speed, which nobody hears. */
    align() {
      if (this.audio.paused || !ready(this.audio)) return;
      const time = this.audio.currentTime;
      const mayseek = performance.now() - this.seeked > 1000; // a server without Range cannot seek: do not insist
      this.usable.forEach((audio) => {
        if (audio === this.audio || audio.seeking) return;
        const lag = time - audio.currentTime;
        if (Math.abs(lag) < FAR) audio.playbackRate = Math.abs(lag) < TIGHT ? 1 : 1 + HURRY * lag;
        else if (mayseek) {
          audio.currentTime = time;
          this.seeked = performance.now();
        }
      });
    }

    follow() {
      if (!this.isPlaying) return;
      if (!this.root.isConnected) return this.stop(); // a notebook ran the cell again
      this.position = this.audio.currentTime;
      this.show();
      requestAnimationFrame(() => this.follow());
    }

    show() {
      const now = this.position.toFixed(1);
      const all = this.seconds.toFixed(1);
      this.bar.value = this.position;
      if (this.shown !== now) {
        this.bar.setAttribute("aria-valuetext", now + " of " + all + " seconds");
        this.clock.textContent = now + " / " + all + " s";
        this.shown = now;
      }
      this.toggle.setAttribute("aria-label", this.isPlaying ? "Pause" : "Play");
    }

    // ---- keyboard ---------------------------------------------------------------------------------------------------

    key(event) {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      const action = this.action(event);
      if (!action) return;
      event.preventDefault();
      event.stopPropagation();
      action();
    }

    action(event) {
      const { key, target, shiftKey } = event;
      const now = this.isPlaying ? this.audio.currentTime : this.position;
      const arrow = { ArrowLeft: -1, ArrowRight: 1 }[key];
      if (key === " ") return target === this.loop || target === this.toggle ? null : () => this.playOrPause();
      if (key === "[") return () => this.seek(now - 1);
      if (key === "]") return () => this.seek(now + 1);
      if (arrow && (shiftKey || target === this.bar)) return () => this.seek(now + arrow);
      if (/^[1-9]$/.test(key) && Number(key) <= this.versions.length) return () => this.choose(Number(key) - 1);
      if (target.type === "range") return null; // a slider keeps its own keys
      if (arrow) return () => this.step(arrow);
      if (this.radios.includes(target) && key === "ArrowUp") return () => this.step(-1);
      if (this.radios.includes(target) && key === "ArrowDown") return () => this.step(1);
      return null;
    }
  }

  /* A blind comparison: X is A or B, drawn anew for each trial. X has an audio element of its own, so that a switch to it
     sounds and takes as long whichever it is. Nothing is kept beyond the page. */
  class ABX extends Player {
    constructor(root) {
      const name = element("span", { class: "sp-name" }, "X");
      const level = element("span", { class: "sp-level" }, "A or B");
      root.querySelector(".sp-versions").append(element("li", {}, name, level, element("audio", { preload: "metadata" })));
      root.querySelector(".sp-noscript").remove();
      super(root);
    }

    get keys() {
      return "Space plays, A B X or 1–3 switch, Shift + A or Shift + B answers, [ ] seek 1 s";
    }

    build() {
      super.build();
      this.trials = Number(this.root.dataset.trials);
      this.trial = element("span", { class: "sp-trial" });
      this.answers = ["A", "B"].map((letter) => element("button", { type: "button", class: "sp-answer" }, "X is " + letter));
      this.again = element("button", { type: "button", class: "sp-again" }, "Begin again");
      this.result = element("p", { class: "sp-result" });
      const row = element("div", { class: "sp-answers", role: "group", "aria-label": "Answer" });
      row.append(this.trial, ...this.answers, this.again);
      this.root.querySelector(".sp-radios").after(row, this.result);
      this.restart();
    }

    listen() {
      super.listen();
      this.answers.forEach((button, guess) => button.addEventListener("click", () => this.answer(guess)));
      this.again.addEventListener("click", () => {
        this.restart();
        this.answers[0].focus();
        this.live.textContent = this.trial.textContent;
      });
    }

    restart() {
      this.given = this.right = 0;
      this.draw();
    }

    draw() {
      this.hidden = crypto.getRandomValues(new Uint8Array(1))[0] & 1;
      this.versions[2].audio.src = this.versions[this.hidden].audio.src;
      this.report();
    }

    answer(guess) {
      if (this.given === this.trials || this.versions.some((version) => version.failed)) return;
      if (this.isPlaying) this.stop();
      this.seek(0);
      this.given += 1;
      this.right += Number(guess === this.hidden);
      if (this.given < this.trials) this.draw();
      else this.finish();
      this.live.textContent = this.given < this.trials ? "Noted. " + this.trial.textContent : this.result.textContent;
    }

    /* The score comes at the end: who watches it stops when it is good, and then its p means nothing. */
    finish() {
      const inside = this.answers.includes(document.activeElement);
      this.report();
      if (inside) this.again.focus(); // a disabled button would drop the keyboard
    }

    report() {
      const over = this.given === this.trials;
      this.answers.forEach((button) => (button.disabled = over));
      this.again.hidden = !over;
      this.trial.textContent = over ? "Done" : "Trial " + (this.given + 1) + " of " + this.trials;
      this.result.textContent = "";
      if (!over) return;
      const p = chance(this.right, this.trials);
      const value = element("data", { value: p }, String(Number(p.toPrecision(2))));
      this.result.append(
        this.right + " of " + this.trials + " right. Guessing does as well or better with probability p = ", value,
        " (binomial, one-sided, exact)."
      );
    }

    fail(index) {
      super.fail(index);
      this.answers.forEach((button) => (button.disabled = true));
    }

    action(event) {
      const { key, target, shiftKey } = event;
      const letter = ["a", "b", "x"].indexOf(key.toLowerCase()); // caps lock is no Shift
      if (letter >= 0 && !shiftKey) return () => this.choose(letter);
      if (letter >= 0 && letter < 2) return () => this.answer(letter);
      if (key === " " && (this.answers.includes(target) || target === this.again)) return null;
      return super.action(event);
    }
  }

  /* The probability that guessing gives at least `right` of `trials`: the binomial tail at 1/2, the smallest term first. */
  function chance(right, trials) {
    let term = Math.pow(0.5, trials);
    let sum = 0;
    for (let k = trials; k >= right; k--) {
      sum += term;
      term *= k / (trials - k + 1);
    }
    return sum;
  }

  function upgrade() {
    document.querySelectorAll(".sp-player:not(.sp-ready)").forEach((root) => {
      if (root.classList.contains("sp-abx")) new ABX(root);
      else new Player(root);
    });
  }

  function start() {
    upgrade();
    // A notebook adds its outputs late, and may run a script before the panel beside it is in the page.
    new MutationObserver(upgrade).observe(document, { childList: true, subtree: true });
  }

  // Not before the page is read: a panel would be found with half of its versions.
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
