// Pictures out of their sheets, and the judge's boxes over them.
function drawer(data) {
  const boxColors = {
    red: "#ff5a4f", orange: "#ff9d2e", yellow: "#ffe14d", green: "#4cd964", blue: "#4aa8ff", purple: "#c58bff",
    pink: "#ff8ad1", brown: "#d19a66", black: "#ffffff", white: "#ffffff",
  };
  const images = new Map();

  function picture(sheet, whenReady) {
    if (!images.has(sheet)) {
      const image = new Image();
      images.set(sheet, image);
      image.src = `data:image/jpeg;base64,${sheet.jpeg}`;
    }
    const image = images.get(sheet);
    if (image.complete && image.naturalWidth) return image;
    image.addEventListener("load", whenReady, { once: true });
    return null;
  }

  // Draw a panel's picture; true when there was one to draw.
  function draw(canvas, panel, at, size, withBoxes, task, whenReady) {
    const sharp = Math.min(3, Math.max(1, window.devicePixelRatio || 1));
    const pixels = Math.round(size * sharp);
    if (canvas.width !== pixels) {
      canvas.width = canvas.height = pixels;
      canvas.style.width = canvas.style.height = `${size}px`;
    }
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, pixels, pixels);
    const sheet = panel && at !== undefined ? panel.sheet : null;
    if (!sheet) return false;
    const image = picture(sheet, whenReady);
    if (!image) return false;
    const { side, columns } = sheet;
    context.imageSmoothingEnabled = side > 48;
    context.drawImage(image, (at % columns) * side, Math.floor(at / columns) * side, side, side, 0, 0, pixels, pixels);
    if (withBoxes && panel.boxes) outline(context, panel.boxes[at], pixels / sheet.drawn, sharp, task);
    return true;
  }

  const least = (task) => (data.tasks[task] === "counting" ? data.countingThreshold : data.threshold);

  function outline(context, boxes, scale, sharp, task) {
    for (let i = 0; i < boxes.length; i += 7) {
      const [, color, x1, y1, x2, y2, score] = boxes.slice(i, i + 7);
      const counted = score >= 100 * least(task);
      const box = [x1 * scale, y1 * scale, (x2 - x1) * scale, (y2 - y1) * scale];
      context.setLineDash(counted ? [] : [4 * sharp, 3 * sharp]);
      context.lineWidth = 4 * sharp;
      context.strokeStyle = "rgba(0, 0, 0, .75)";
      context.strokeRect(...box);
      context.lineWidth = 2 * sharp;
      context.strokeStyle = boxColors[data.colors[color]] ?? "#ffffff";
      context.strokeRect(...box);
    }
    context.setLineDash([]);
  }

  return { draw, least };
}
