// node build.cjs FOLDER: compiles the pages' scripts into FOLDER.

const path = require('node:path');
const esbuild = require('esbuild');

esbuild.buildSync({
  entryPoints: ['chat.tsx', 'reload.ts'].map(name => path.join(__dirname, name)),
  nodePaths: [process.env.NODE_PATH],
  outdir: process.argv[2],
  bundle: true,
  jsx: 'automatic',
  define: {'process.env.NODE_ENV': '"production"'},
  logLevel: 'warning'
});
