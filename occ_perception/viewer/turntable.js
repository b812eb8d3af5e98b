// A volume of voxels that can be turned: plain WebGL, no library, nothing loaded from elsewhere.
// turntable(element, {dims, size, lower, colours, volumes: [{name, voxels}]}); voxels is base64 of
// little-endian uint16: x, y, z, class of every occupied voxel.
"use strict";
function turntable(element, data) {
  const canvas = element.querySelector("canvas"), buttons = element.querySelector("div");
  const gl = canvas.getContext("webgl", { antialias: true });
  if (!gl) { element.append("This browser shows no WebGL; the film and the images need none."); return; }

  const program = link(
    `attribute vec3 place; attribute vec4 paint; uniform mat4 view; varying vec3 colour;
     void main() { gl_Position = view * vec4(place, 1.0); colour = paint.rgb * paint.a; }`,
    `precision mediump float; varying vec3 colour;
     void main() { gl_FragColor = vec4(colour, 1.0); }`);
  const meshes = data.volumes.map(volume => mesh(decode(volume.voxels)));
  let shown = 0, turn = -0.6, tilt = 0.55, distance = 1.15, held = null;

  data.volumes.forEach((volume, number) => {
    const button = document.createElement("button");
    button.textContent = volume.name;
    button.onclick = () => { shown = number; draw(); };
    buttons.append(button);
  });
  canvas.onpointerdown = event => { held = [event.clientX, event.clientY]; canvas.setPointerCapture(event.pointerId); };
  canvas.onpointerup = () => { held = null; };
  canvas.onpointermove = event => {
    if (!held) return;
    turn -= (event.clientX - held[0]) / 200;
    tilt = Math.min(1.55, Math.max(0.05, tilt + (event.clientY - held[1]) / 200));
    held = [event.clientX, event.clientY];
    draw();
  };
  canvas.addEventListener("wheel", event => {
    event.preventDefault();
    distance = Math.min(3, Math.max(0.15, distance * Math.exp(event.deltaY / 800)));
    draw();
  }, { passive: false });
  new ResizeObserver(draw).observe(canvas);

  function decode(text) {
    const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
    return new Uint16Array(bytes.buffer);
  }

  // Faces between an occupied and a free voxel, as triangles.
  function mesh(voxels) {
    const [X, Y, Z] = data.dims, filled = new Uint8Array((X + 2) * (Y + 2) * (Z + 2));
    const at = (x, y, z) => ((x + 1) * (Y + 2) + y + 1) * (Z + 2) + z + 1;
    for (let i = 0; i < voxels.length; i += 4) filled[at(voxels[i], voxels[i + 1], voxels[i + 2])] = 1;
    const light = [[0.78, 0.70], [0.86, 0.62], [1.0, 0.45]];  // sides along x, y, z: towards +, towards -
    const places = [], paints = [];
    for (let i = 0; i < voxels.length; i += 4) {
      const corner = [voxels[i], voxels[i + 1], voxels[i + 2]], colour = data.colours[voxels[i + 3]];
      for (let axis = 0; axis < 3; axis++) for (const side of [0, 1]) {
        const next = corner.slice();
        next[axis] += side ? 1 : -1;
        if (filled[at(...next)]) continue;
        const square = [[0, 0], [1, 0], [1, 1], [0, 0], [1, 1], [0, 1]].map(([u, v]) => {
          const point = corner.slice();
          point[axis] += side;
          point[(axis + 1) % 3] += u;
          point[(axis + 2) % 3] += v;
          return point;
        });
        for (const point of square) {
          for (let k = 0; k < 3; k++) places.push(data.lower[k] + point[k] * data.size[k]);
          paints.push(...colour, 255 * light[axis][side ? 0 : 1]);
        }
      }
    }
    return { count: places.length / 3, places: buffer(new Float32Array(places)), paints: buffer(new Uint8Array(paints)) };
  }

  function draw() {
    const ratio = window.devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * ratio;
    canvas.height = canvas.clientHeight * ratio;
    gl.viewport(0, 0, canvas.width, canvas.height);
    gl.clearColor(0.93, 0.94, 0.96, 1);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.enable(gl.DEPTH_TEST);
    gl.useProgram(program);
    gl.uniformMatrix4fv(gl.getUniformLocation(program, "view"), false, view(canvas.width / canvas.height));
    bind("place", meshes[shown].places, 3, gl.FLOAT, false);
    bind("paint", meshes[shown].paints, 4, gl.UNSIGNED_BYTE, true);
    gl.drawArrays(gl.TRIANGLES, 0, meshes[shown].count);
    [...buttons.children].forEach((button, number) => { button.disabled = number === shown; });
    element.dataset.drawn = meshes[shown].count;
  }

  // Projection times view, column by column. The vehicle looks along x; z is up.
  function view(aspect) {
    const reach = data.dims[0] * data.size[0] * distance;
    const middle = data.lower.map((low, k) => low + data.dims[k] * data.size[k] / 2);
    const back = [-Math.cos(turn) * Math.cos(tilt), -Math.sin(turn) * Math.cos(tilt), Math.sin(tilt)];
    const right = [Math.sin(turn), -Math.cos(turn), 0];
    const up = [back[1] * right[2] - back[2] * right[1], back[2] * right[0] - back[0] * right[2], back[0] * right[1] - back[1] * right[0]];
    const eye = middle.map((m, k) => m + reach * back[k]);
    const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
    const focal = 1.8, near = 0.02 * reach, far = 4 * reach;
    const [a, b] = [(far + near) / (near - far), 2 * far * near / (near - far)];
    const rows = [[...right, -dot(right, eye)], [...up, -dot(up, eye)], [...back, -dot(back, eye)]];
    const out = [];
    for (let k = 0; k < 4; k++) {
      out.push(focal / aspect * rows[0][k], focal * rows[1][k], a * rows[2][k] + (k === 3 ? b : 0), -rows[2][k]);
    }
    return new Float32Array(out);
  }

  function bind(name, content, size, type, normalised) {
    const place = gl.getAttribLocation(program, name);
    gl.bindBuffer(gl.ARRAY_BUFFER, content);
    gl.enableVertexAttribArray(place);
    gl.vertexAttribPointer(place, size, type, normalised, 0, 0);
  }

  function buffer(content) {
    const made = gl.createBuffer();
    gl.bindBuffer(gl.ARRAY_BUFFER, made);
    gl.bufferData(gl.ARRAY_BUFFER, content, gl.STATIC_DRAW);
    return made;
  }

  function link(...sources) {
    const made = gl.createProgram();
    sources.forEach((source, number) => {
      const shader = gl.createShader(number ? gl.FRAGMENT_SHADER : gl.VERTEX_SHADER);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(made, shader);
    });
    gl.linkProgram(made);
    return made;
  }
}
