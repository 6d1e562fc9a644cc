"use strict";
// Over a figure, the values of its curves at the pointer; a dragged rectangle is enlarged, a double click shows all again.
for (const holder of document.querySelectorAll("[data-curves]")) {
  const svg = holder.querySelector("svg"), { curves, box } = JSON.parse(holder.dataset.curves);
  const whole = svg.getAttribute("viewBox"), make = (name, attributes) => {
    const element = document.createElementNS(svg.namespaceURI, name);
    for (const key in attributes) element.setAttribute(key, attributes[key]);
    return svg.appendChild(element);
  };
  const line = make("line", { stroke: "#888", "stroke-width": 0.7, visibility: "hidden" });
  const frame = make("rect", { fill: "#888", "fill-opacity": 0.2, stroke: "#888", visibility: "hidden" });
  const dots = curves.map((curve) => make("circle", { r: 3, fill: curve.color, visibility: "hidden" }));
  const note = holder.appendChild(document.createElement("output"));
  note.className = "values";
  const at = (event) => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  const hide = () => { for (const part of [line, ...dots]) part.setAttribute("visibility", "hidden"); note.textContent = ""; };
  let start = null;
  const show = (point) => {
    if (point.x < box[0] - 4 || point.x > box[2] + 4) return hide();
    const nearest = curves.map((curve) => curve.points.reduce((a, b) => (Math.abs(b[0] - point.x) < Math.abs(a[0] - point.x) ? b : a)));
    const x = nearest.reduce((a, b) => (Math.abs(b[0] - point.x) < Math.abs(a[0] - point.x) ? b : a))[0];
    for (const [key, value] of Object.entries({ x1: x, x2: x, y1: box[1], y2: box[3], visibility: "visible" })) line.setAttribute(key, value);
    const texts = nearest.map((found, index) => {
      const near = Math.abs(found[0] - x) < 0.5;
      dots[index].setAttribute("visibility", near ? "visible" : "hidden");
      dots[index].setAttribute("cx", found[0]);
      dots[index].setAttribute("cy", found[1]);
      return near ? `${curves[index].label}: ${found[3]}` : "";
    });
    note.textContent = `at ${nearest.find((found) => found[0] === x)[2]}  ${texts.filter(Boolean).join("  ")}`;
  };
  svg.addEventListener("pointermove", (event) => {
    const point = at(event);
    if (!start) return show(point);
    const [x, y] = [Math.min(start.x, point.x), Math.min(start.y, point.y)];
    const size = { x, y, width: Math.abs(point.x - start.x), height: Math.abs(point.y - start.y), visibility: "visible" };
    for (const key in size) frame.setAttribute(key, size[key]);
  });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("pointerdown", (event) => { if (event.pointerType === "mouse") { start = at(event); event.preventDefault(); } });
  window.addEventListener("pointerup", () => {
    const [x, y, width, height] = ["x", "y", "width", "height"].map((key) => Number(frame.getAttribute(key)));
    if (start && frame.getAttribute("visibility") === "visible" && width > 8 && height > 8) svg.setAttribute("viewBox", `${x} ${y} ${width} ${height}`);
    frame.setAttribute("visibility", "hidden");
    start = null;
  });
  svg.addEventListener("dblclick", () => svg.setAttribute("viewBox", whole));
}
