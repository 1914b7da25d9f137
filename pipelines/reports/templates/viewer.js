// Starts NiiVue on demand. Opened by file:// a page may neither fetch nor import: the script comes in by a classic
// script element (or out of the page itself), the volumes from text that the page carries.
(function () {
  "use strict";
  var nonce = document.currentScript.nonce;
  var byId = function (id) { return document.getElementById(id); };
  var text = function (id) { var node = byId(id); return node ? node.textContent : ""; };
  var config = JSON.parse(text("viewer-config"));
  var status = byId("viewer-status"), button = byId("viewer-open"), box = byId("viewer-box");

  function unavailable(reason) {
    box.hidden = true;
    byId("viewer-start").hidden = true;
    status.textContent = reason + " The slices above show the same result.";
    document.documentElement.dataset.viewer = "unavailable";
  }

  function hasWebgl() {
    try { return !!document.createElement("canvas").getContext("webgl2"); } catch (error) { return false; }
  }

  function load() {
    return new Promise(function (resolve, reject) {
      var element = document.createElement("script");
      element.nonce = nonce;
      var source = text("viewer-source");
      if (source) {
        element.textContent = source;
        document.head.appendChild(element);
        resolve();
        return;
      }
      element.onload = resolve;
      element.onerror = function () { reject(new Error("not found")); };
      element.src = config.script;
      document.head.appendChild(element);
    });
  }

  async function start() {
    button.disabled = true;
    status.textContent = "Starting the viewer …";
    try {
      await load();
    } catch (error) {
      unavailable("The viewer’s script is not beside this page (" + config.script + ").");
      return;
    }
    try {
      box.hidden = false;
      await show(window.niivue);
    } catch (error) {
      unavailable("The viewer could not start in this browser.");
      return;
    }
    byId("viewer-start").hidden = true;
    status.textContent = "";
    document.documentElement.dataset.viewer = "ready";
    byId("viewer-view").focus();
  }

  async function show(library) {
    var viewer = new library.Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [0.4, 0.85, 0.9, 0.8], crosshairWidth: 1, logLevel: "error",
      isRadiologicalConvention: config.radiological, sagittalNoseLeft: true, dragAndDropEnabled: false,
      show3Dcrosshair: true, multiplanarForceRender: true, isColorbar: false, loadingText: "",
      fontColor: [0.92, 0.94, 0.95, 1]
    });
    viewer.onLocationChange = function (place) {
      var label = place.values && place.values[1] ? Math.round(place.values[1].value) : 0;
      byId("viewer-here").textContent = "At the cross: " + (config.names[label] || "no label");
    };
    await viewer.attachToCanvas(byId("viewer-canvas"));
    var image = await library.NVImage.loadFromBase64(
      { base64: text("viewer-background"), name: "background.nii.gz", colormap: "gray", cal_min: 0, cal_max: 255 });
    viewer.addVolume(image);
    if (text("viewer-labels")) {
      var labels = await library.NVImage.loadFromBase64(
        { base64: text("viewer-labels"), name: "labels.nii.gz", opacity: 0.45 });
      labels.setColormapLabel(config.colours);
      viewer.addVolume(labels);
      byId("viewer-opacity").addEventListener("input", function (event) {
        viewer.setOpacity(1, event.target.value / 100);
      });
    }
    viewer.scene.crosshairPos = config.start;
    viewer.opts.multiplanarLayout = 2;  // two by two
    viewer.setSliceType(3);
    viewer.createOnLocationChange();
    byId("viewer-view").addEventListener("change", function (event) {
      viewer.setSliceType(Number(event.target.value));
    });
  }

  if (hasWebgl()) {
    button.addEventListener("click", start);
  } else {
    unavailable("This browser has no WebGL 2, which the viewer needs.");
  }
})();
