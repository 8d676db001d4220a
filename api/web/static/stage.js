// The part, large: its photo and maps above one another, zoom, and the regions drawn on them.
"use strict";

class Stage {
  #pictures = document.getElementById("pictures");
  #sheet = document.getElementById("sheet");
  #photo = this.#sheet.querySelector(".photo");
  #layers = [...this.#sheet.querySelectorAll("[data-layer]")];
  #svg = this.#sheet.querySelector("svg");
  #slider = document.getElementById("layer");
  #stops = [...document.querySelectorAll("[data-stop]")];
  #view = { scale: 1, x: 0, y: 0 };
  #pointers = new Map();
  #box = null;
  outline = [];
  mine = [];
  isDrawing = false;
  onregion = () => {};

  constructor() {
    this.#slider.addEventListener("input", () => this.#fade());
    for (const stop of this.#stops) stop.addEventListener("click", () => this.layer(Number(stop.dataset.stop)));
    const frame = this.#pictures;
    frame.addEventListener("wheel", (event) => { event.preventDefault(); this.zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, event); }, { passive: false });
    frame.addEventListener("dblclick", (event) => { if (!this.isDrawing) this.#view.scale > 1 ? this.fit() : this.zoom(3, event); });
    frame.addEventListener("pointerdown", (event) => this.#down(event));
    frame.addEventListener("pointermove", (event) => this.#move(event));
    // Dragging pans or draws; otherwise a browser would carry the picture away.
    frame.addEventListener("dragstart", (event) => event.preventDefault());
    for (const kind of ["pointerup", "pointercancel"]) frame.addEventListener(kind, (event) => this.#up(event));
  }

  /** Show an inspection; resolves when its photo can be seen. */
  async show(inspection) {
    this.fit();
    this.#sheet.style.aspectRatio = `${inspection.image.width} / ${inspection.image.height}`;
    const sources = [inspection.image.url, inspection.overlay_url, inspection.anomaly_map_url];
    [this.#photo, ...this.#layers].forEach((image, index) => {
      image.hidden = !sources[index];
      if (sources[index]) image.src = sources[index]; else image.removeAttribute("src");
    });
    this.outline = inspection.autoencoder?.regions ?? [];
    this.regions([]);
    this.draw(false);
    this.layer(0);
    if (sources[0]) await this.#photo.decode().catch(() => {});
  }

  layer(at) { this.#slider.value = at; this.#fade(); }
  step(by) { this.layer(Math.min(2, Math.max(0, Math.round(Number(this.#slider.value)) + by))); }

  #fade() {
    const at = Number(this.#slider.value);
    for (const layer of this.#layers) layer.style.opacity = Math.min(1, Math.max(0, at - layer.dataset.layer + 1));
    for (const stop of this.#stops) stop.setAttribute("aria-pressed", String(Math.abs(at - stop.dataset.stop) < 0.25));
    this.#svg.classList.toggle("on-map", at > 1.5);
    this.#slider.setAttribute("aria-valuetext", this.#stops[Math.round(at)].textContent);
  }

  fit() { this.#view = { scale: 1, x: 0, y: 0 }; this.#place(); }

  /** Larger by a factor, what is under the pointer staying where it is. */
  zoom(factor, at) {
    const frame = this.#sheet.parentElement.getBoundingClientRect();
    const sheet = this.#sheet.getBoundingClientRect();
    const x = (at?.clientX ?? frame.left + frame.width / 2) - sheet.left;
    const y = (at?.clientY ?? frame.top + frame.height / 2) - sheet.top;
    const scale = Math.min(12, Math.max(1, this.#view.scale * factor));
    const real = scale / this.#view.scale;
    this.#view = scale === 1 ? { scale, x: 0, y: 0 } : { scale, x: this.#view.x + x * (1 - real), y: this.#view.y + y * (1 - real) };
    this.#place();
  }

  #place() {
    const { scale, x, y } = this.#view;
    this.#sheet.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
    this.#pictures.classList.toggle("zoomed", scale > 1);
  }

  draw(isOn) {
    this.isDrawing = isOn;
    this.#pictures.classList.toggle("drawing", isOn);
    document.getElementById("draw").setAttribute("aria-pressed", String(isOn));
  }

  /** What the reviewer says where the defect is: polygons in shares of width and height. */
  regions(polygons) {
    this.mine = polygons;
    this.#outlines();
    this.onregion();
  }

  #outlines(extra = []) {
    const shape = (points, kind) => {
      const polygon = document.createElementNS("http://www.w3.org/2000/svg", "polygon");
      polygon.setAttribute("points", points.map((point) => point.join(",")).join(" "));
      polygon.setAttribute("class", kind);
      return polygon;
    };
    this.#svg.replaceChildren(
      ...this.outline.map((points) => shape(points, "outline")),
      ...[...this.mine, ...extra].map((points) => shape(points, "outline mine")),
    );
  }

  #share(event) {
    const sheet = this.#sheet.getBoundingClientRect();
    const within = (value) => Math.round(1e4 * Math.min(1, Math.max(0, value))) / 1e4;
    return [within((event.clientX - sheet.left) / sheet.width), within((event.clientY - sheet.top) / sheet.height)];
  }

  #down(event) {
    if (event.button !== 0) return;
    this.#pictures.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, event);
    if (this.isDrawing && this.#pointers.size === 1) this.#box = this.#share(event);
  }

  #move(event) {
    const before = this.#pointers.get(event.pointerId);
    if (!before) return;
    if (this.#box) {
      this.#outlines([this.#rectangle(this.#share(event))]);
    } else if (this.#pointers.size === 2) {
      const other = [...this.#pointers.values()].find((one) => one.pointerId !== event.pointerId);
      const span = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY);
      this.zoom(span(event) / Math.max(1, span(before)), { clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2 });
    } else if (this.#view.scale > 1) {
      this.#view.x += event.clientX - before.clientX;
      this.#view.y += event.clientY - before.clientY;
      this.#place();
    }
    this.#pointers.set(event.pointerId, event);
  }

  #up(event) {
    this.#pointers.delete(event.pointerId);
    if (!this.#box) return;
    const [x, y] = this.#share(event);
    const rectangle = this.#rectangle([x, y]);
    const isLarge = Math.abs(x - this.#box[0]) > 0.005 && Math.abs(y - this.#box[1]) > 0.005;
    this.#box = null;
    if (isLarge && event.type === "pointerup") { this.draw(false); this.regions([...this.mine, rectangle]); } else this.#outlines();
  }

  #rectangle([x, y]) {
    const [a, b] = this.#box;
    return [[a, b], [x, b], [x, y], [a, y]];
  }
}
