// One part at a time: claim it, look, decide, and the next one is already there.
// A decision counts only while our claim lasts, so activity is told to the service as it happens.
"use strict";

const SEEN_MS = 400;

document.addEventListener("DOMContentLoaded", () => {
  const by = (id) => document.getElementById(id);
  const reviewing = by("reviewing");
  const words = JSON.parse(by("words").textContent);
  const leaseSeconds = Number(reviewing.dataset.leaseSeconds);
  const stage = new Stage();
  const choose = by("choose");
  const decided = [];
  let current = null;
  let following = Promise.resolve(null);
  let ahead = null;
  let type = null;
  let running = null;
  let hasStarted = false;
  let activeAt = Date.now();
  let shownAt = 0;

  function say(text) { by("toast").textContent = text; }

  function filters() {
    return Object.fromEntries([...new FormData(choose)].filter(([, value]) => value));
  }

  // --- Claims ---

  // By this page's own clock, from when it was asked for: a tablet's time of day may be minutes off.
  function lasts(since) { return since + 1000 * leaseSeconds; }

  async function take() {
    const since = performance.now();
    const item = await api("POST", "/v1/reviews/next", filters());
    if (item) item.until = lasts(since);
    if (item) for (const url of [item.inspection.image.url, item.inspection.overlay_url, item.inspection.anomaly_map_url]) if (url) new Image().src = url;
    return item;
  }

  /** The next part is claimed and its pictures are loaded while the present one is looked at. */
  function prepare() {
    ahead = null;
    following = take().catch(() => null);
    const mine = following;
    mine.then((item) => {
      if (mine === following) ahead = item;
      document.body.dispatchEvent(new Event("claimed"));
    });
  }

  async function release(item, skip = false) {
    if (item) await api("POST", `/v1/reviews/${item.id}/release`, { lease_token: item.lease_token, skip }).catch(() => {});
  }

  async function advance() {
    let item = await following;
    if (item && item.until < performance.now()) {
      await release(item);
      item = null;
    }
    await show(item ?? await take());
  }

  async function claim(id) {
    const since = performance.now();
    const item = await api("POST", `/v1/reviews/${id}/claim`);
    return Object.assign(item, { until: lasts(since) });
  }

  async function extend() {
    const isActive = Date.now() - activeAt < 1000 * leaseSeconds / 2;
    if (!current || running || document.hidden || !isActive) return;
    for (const item of [current, await following]) {
      if (!item) continue;
      const since = performance.now();
      try {
        await api("POST", `/v1/reviews/${item.id}/extend`, { lease_token: item.lease_token });
        item.until = lasts(since);
      } catch (error) {
        if (error.code !== "lease_lost") continue;
        // What is shown changes only while nothing is being decided, and blocks deciding meanwhile.
        if (item === current) once(claimAgain); else if (item === ahead) prepare();
      }
    }
  }

  async function claimAgain() {
    const item = current;
    let again;
    try {
      again = await claim(item.id);
    } catch (error) {
      if (!error.status) return say("The service cannot be reached, and your claim of this part has run out.");
      say("Somebody else has taken this part meanwhile. Here is another one.");
      return await goOn();
    }
    if (again.decisions.length > item.decisions.length) {
      // To decide it now would overrule a decision without having seen it.
      await release(again);
      if (item.mayHaveArrived) {
        remember(item);
        say("Your decision had arrived. Here is another part.");
      } else say("Somebody else has decided this part meanwhile. Here is another one.");
      return await goOn();
    }
    Object.assign(item, { lease_token: again.lease_token, until: again.until });
    say("Your claim of this part had run out; it is yours again.");
  }

  // --- Showing ---

  /** `next`: what comes after it, where that is known already. */
  async function show(item, next) {
    current = item;
    reviewing.dataset.decidable = "no";
    reviewing.hidden = !item;
    by("nothing").hidden = Boolean(item);
    // Who looks at what, and the way back, are there also when nothing is left.
    by(item ? "side" : "empty-side").append(by("waiting"));
    by(item ? "undo-place" : "empty-undo").append(by("undo"));
    by("filtered").hidden = !Object.keys(filters()).length;
    if (!item) return document.body.dispatchEvent(new Event("claimed"));
    const { inspection } = item;
    const { part } = inspection;
    by("part").textContent = part.serial ?? inspection.id.slice(-8);
    by("which").textContent = [inspection.product, part.lot && `lot ${part.lot}`, part.line && `line ${part.line}`, part.station].filter(Boolean).join(" · ");
    const { classifier, autoencoder } = inspection;
    const opinion = inspection.model_verdict === "undecidable" ? "The model gives no verdict" : `The model says ${inspection.model_verdict}`;
    by("model").textContent = classifier
      ? `${opinion}: defect probability ${(100 * classifier.defect_probability).toFixed(1)} % (threshold ${(100 * classifier.threshold).toFixed(1)} %), anomaly ${autoencoder.anomaly_score.toFixed(1)} σ (threshold ${autoencoder.threshold.toFixed(1)} σ).`
      : `There is no verdict: ${inspection.error?.message ?? inspection.status}`;
    by("reasons").replaceChildren(...item.reasons.map((reason) => {
      const line = document.createElement("li");
      const name = document.createElement("strong");
      name.textContent = words.reasons[reason] + ". ";
      line.append(name, words.explained[reason]);
      return line;
    }));
    const last = item.decisions.at(-1);
    by("earlier").hidden = !last;
    if (last) by("earlier").textContent = `Decided before: ${last.verdict}${last.defect_type ? ", " + last.defect_type.replaceAll("_", " ") : ""}. Your decision supersedes it.`;
    by("types").replaceChildren(...item.defect_types.map((name, index) => {
      const button = document.createElement("button");
      const key = document.createElement("kbd");
      key.textContent = index + 1;
      button.type = "button";
      button.dataset.type = name;
      button.append(name.replaceAll("_", " "), " ", key);
      button.addEventListener("click", () => chooseType(name));
      return button;
    }));
    by("comment").value = "";
    chooseType(null);
    if (next) { following = Promise.resolve(next); ahead = next; } else prepare();
    await stage.show(inspection);
    by("accept").disabled = !stage.outline.length;
    reviewing.dataset.shown = item.id;
    setTimeout(() => { if (current === item) reviewing.dataset.decidable = "yes"; }, SEEN_MS);
    reviewing.dataset.changeMs = Math.round(performance.now() - shownAt);
  }

  function chooseType(name) {
    type = type === name ? null : name;
    for (const button of by("types").children) button.setAttribute("aria-pressed", String(button.dataset.type === type));
  }

  // --- Deciding ---

  /** One thing at a time: a second key while the first is on its way is not a second decision, and
   * nothing is decided before it can be seen. */
  async function once(work) {
    if (running) return;
    shownAt = performance.now();
    reviewing.ariaBusy = "true";
    running = work().catch(async (error) => {
      if (error.code === "lease_lost") await claimAgain();
      else say(error.status ? error.message : "No answer came from the service. What was sent may have arrived; try again.");
    }).catch((error) => say(error.message));
    await running;
    running = null;
    reviewing.ariaBusy = "false";
  }

  /** The second tap of a double tap is meant for the part that was there before. */
  function isSeen() { return reviewing.dataset.decidable === "yes"; }

  function remember(item) {
    decided.push(item.id);
    by("undo").disabled = false;
  }

  const decide = (verdict) => isSeen() && once(async () => {
    const item = current;
    const isDefective = verdict === "defective";
    try {
      await api("POST", `/v1/reviews/${item.id}/decision`, {
        lease_token: item.lease_token,
        verdict,
        defect_type: isDefective ? type : null,
        region: isDefective && stage.mine.length ? stage.mine : null,
        comment: by("comment").value,
      });
    } catch (error) {
      item.mayHaveArrived ||= !error.status;
      throw error;
    }
    remember(item);
    say(`${item.inspection.part.serial ?? "The part"}: ${{ good: "good, it passes", defective: "defective, it is rejected", undecidable: "cannot tell, it stays on hold" }[verdict]}.`);
    await goOn();
  });

  /** It is decided or skipped, whatever becomes of the next one. */
  async function goOn() {
    try { await advance(); } catch {
      await show(null);
      say(`${by("toast").textContent} But the next part cannot be fetched.`);
    }
  }

  const skip = () => isSeen() && once(async () => {
    // The next one first: otherwise we would be offered the same part again.
    const item = current;
    await following;
    await release(item, true);
    say("Skipped; others see it first.");
    await goOn();
  });

  const undo = () => {
    const id = decided.at(-1);
    if (!id) return;
    once(async () => {
      const item = await claim(id);
      decided.pop();
      by("undo").disabled = !decided.length;
      await release(await following);
      // What was looked at comes next.
      await show(item, current);
      say("Here is the last one again: decide anew.");
    });
  };

  function draw() { stage.draw(!stage.isDrawing); }
  function accept() { if (stage.outline.length) stage.regions(stage.outline); }
  stage.onregion = () => { by("clear").disabled = !stage.mine.length; };

  for (const button of document.querySelectorAll("[data-verdict]")) button.addEventListener("click", () => decide(button.dataset.verdict));
  for (const [id, act] of Object.entries({ skip, undo, draw, accept, clear: () => stage.regions([]), "zoom-in": () => stage.zoom(1.5), "zoom-out": () => stage.zoom(1 / 1.5), "zoom-fit": () => stage.fit(), "help-button": () => by("help").showModal() })) by(id).addEventListener("click", act);

  const keys = {
    g: () => decide("good"), d: () => decide("defective"), u: () => decide("undecidable"), s: skip, z: undo, b: draw, o: accept, x: () => stage.regions([]),
    c: () => by("comment").focus(), ArrowLeft: () => stage.step(-1), ArrowRight: () => stage.step(1),
    "+": () => stage.zoom(1.5), "-": () => stage.zoom(1 / 1.5), 0: () => stage.fit(), "?": () => by("help").showModal(),
  };
  document.addEventListener("keydown", (event) => {
    activeAt = Date.now();
    const isTyping = event.target.matches("input:not([type=range]), textarea, select");
    if (event.key === "Escape" && isTyping) return event.target.blur();
    if (isTyping || by("help").open || event.ctrlKey || event.metaKey || event.altKey || event.repeat && !event.key.startsWith("Arrow")) return;
    const act = keys[event.key] ?? keys[event.key.toLowerCase()];
    const wanted = current?.defect_types[Number(event.key) - 1];
    if (/^[1-9]$/.test(event.key) && wanted) chooseType(wanted);
    else if (act) { event.preventDefault(); act(); }
  });
  for (const kind of ["pointermove", "pointerdown", "wheel", "scroll"]) document.addEventListener(kind, () => { activeAt = Date.now(); }, { passive: true });

  // --- Coming and going ---

  choose.addEventListener("change", async () => {
    const chosen = filters();
    history.replaceState(null, "", "/review" + (Object.keys(chosen).length ? "?" + new URLSearchParams(chosen) : ""));
    by("chosen").textContent = Object.values(chosen).join(", ").replaceAll("_", " ") || "all that wait";
    await running;
    await once(async () => {
      await release(await following);
      await release(current);
      await show(await take());
    });
  });
  choose.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("pagehide", () => {
    for (const item of [current, ahead]) {
      if (item) fetch(`/v1/reviews/${item.id}/release`, { method: "POST", keepalive: true, credentials: "same-origin", headers: { "X-CSRF-Token": CSRF, "Content-Type": "application/json" }, body: JSON.stringify({ lease_token: item.lease_token }) });
    }
  });
  setInterval(extend, 1000 * Math.max(1, leaseSeconds / 4));

  const start = () => once(async () => {
    hasStarted = true;
    await show(await take());
  });

  // While nothing waits, new parts appear by themselves, and those that somebody gave back.
  const stream = new EventSource("/v1/stream");
  const look = () => { if (hasStarted && !current && !document.hidden) start(); };
  stream.addEventListener("inspection", (event) => { if (JSON.parse(event.data).needs_review) look(); });
  setInterval(look, 10000);
  addEventListener("pagehide", () => stream.close());

  const wanted = new URLSearchParams(location.search);
  for (const [name, value] of wanted) if (choose.elements[name]) choose.elements[name].value = value;
  by("chosen").textContent = Object.values(filters()).join(", ").replaceAll("_", " ") || "all that wait";
  const first = wanted.get("id");
  if (first) once(async () => { await show(await claim(first)); hasStarted = true; }).then(() => { if (!current) start(); });
  else start();
});
