// Builds templates/static/console from src/ and the locked npm packages, and writes manifest.json with the
// version, licence and sha256 of everything it put there. It must not reach the network: `npm ci` did that.

import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { dirname, join, relative, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const root = resolve(here, "..");
const out = join(root, "templates/static/console");
const modules = join(here, "node_modules");

const packages = {
  "htmx.org": "LICENSE",
  uplot: "LICENSE",
  daisyui: "LICENSE",
  tailwindcss: "LICENSE",
  "lucide-static": "LICENSE",
  "@fontsource-variable/ibm-plex-sans": "LICENSE",
  "@fontsource/ibm-plex-mono": "LICENSE",
};

const fonts = {
  "plex-sans.woff2": "@fontsource-variable/ibm-plex-sans/files/ibm-plex-sans-latin-wght-normal.woff2",
  "plex-sans-ext.woff2": "@fontsource-variable/ibm-plex-sans/files/ibm-plex-sans-latin-ext-wght-normal.woff2",
  "plex-mono.woff2": "@fontsource/ibm-plex-mono/files/ibm-plex-mono-latin-400-normal.woff2",
  "plex-mono-medium.woff2": "@fontsource/ibm-plex-mono/files/ibm-plex-mono-latin-500-normal.woff2",
};

function walk(folder) {
  return readdirSync(folder)
    .sort()
    .flatMap((name) => {
      const path = join(folder, name);
      return statSync(path).isDirectory() ? walk(path) : [path];
    });
}

function sha256(path) {
  return createHash("sha256").update(readFileSync(path)).digest("hex");
}

function sprite() {
  // Only the icons that a template or a script names: {% icon "copy" %}, data-icon="copy", icon="copy".
  const sources = [
    ...walk(join(root, "templates")).filter((path) => path.endsWith(".html")),
    ...walk(join(here, "src")),
    join(root, "gateway/navigation.py"),
  ];
  const names = new Set();
  for (const path of sources) {
    const text = readFileSync(path, "utf8");
    for (const match of text.matchAll(/(?:\{% icon |icon=|icon_name=|icon\()"([a-z0-9-]+)"/g)) names.add(match[1]);
  }
  const symbols = [...names].sort().map((name) => {
    const svg = readFileSync(join(modules, "lucide-static/icons", `${name}.svg`), "utf8");
    const body = svg.replace(/<!--.*?-->/gs, "").replace(/^\s*<svg[^>]*>/s, "").replace(/<\/svg>\s*$/, "");
    return `<symbol id="${name}" viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" stroke-linejoin="round">${body.replace(/\s*\n\s*/g, "")}</symbol>`;
  });
  return `<svg xmlns="http://www.w3.org/2000/svg">\n${symbols.join("\n")}\n</svg>\n`;
}

rmSync(out, { recursive: true, force: true });
mkdirSync(join(out, "fonts"), { recursive: true });

for (const [name, source] of Object.entries(fonts)) cpSync(join(modules, source), join(out, "fonts", name));
cpSync(join(here, "src/mark.svg"), join(out, "mark.svg"));
writeFileSync(join(out, "icons.svg"), sprite());

execFileSync(
  join(modules, ".bin/tailwindcss"),
  ["--input", join(here, "src/console.css"), "--output", join(out, "console.css"), "--minify"],
  { cwd: here, stdio: ["ignore", "ignore", "inherit"] },
);

await build({
  entryPoints: [join(here, "src/console.js"), join(here, "src/charts.js")],
  outdir: out,
  bundle: true,
  minify: true,
  format: "iife",
  target: "es2022",
  legalComments: "none",
});

const manifest = { packages: {}, files: {}, sources: {} };
let notice = "Third-party work inside this folder, with the licence each came under.\n";
for (const [name, licence] of Object.entries(packages)) {
  const meta = JSON.parse(readFileSync(join(modules, name, "package.json"), "utf8"));
  manifest.packages[name] = { version: meta.version, licence: meta.license };
  notice += `\n${"=".repeat(78)}\n${name} ${meta.version} (${meta.license})\n${"=".repeat(78)}\n`;
  notice += readFileSync(join(modules, name, licence), "utf8").trim() + "\n";
}
writeFileSync(join(out, "LICENSES.txt"), notice);

// The accessibility checker of the browser tests: never served, kept beside them under its own licence.
const axe = join(root, "tests/e2e/vendor");
mkdirSync(axe, { recursive: true });
cpSync(join(modules, "axe-core/axe.min.js"), join(axe, "axe.min.js"));
cpSync(join(modules, "axe-core/LICENSE"), join(axe, "axe-core-LICENSE.txt"));

for (const path of walk(out)) manifest.files[relative(out, path)] = sha256(path);
for (const path of walk(join(here, "src"))) manifest.sources[relative(here, path)] = sha256(path);
writeFileSync(join(out, "manifest.json"), JSON.stringify(manifest, null, 2) + "\n");
