// Files and folders that are dropped or chosen.

// What systems leave behind in folders.
const isClutter = (name) => name.startsWith(".") || name === "Thumbs.db" || name === "desktop.ini";

function entries(folder) {
  const reader = folder.createReader();
  // A browser hands them over a hundred at a time.
  const read = async (all) => {
    const part = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
    return part.length ? read([...all, ...part]) : all;
  };
  return read([]);
}

async function walk(entry, path, files) {
  if (isClutter(entry.name)) return;
  if (entry.isFile) {
    files.push({ file: await new Promise((resolve, reject) => { entry.file(resolve, reject); }), path });
  } else {
    for (const child of await entries(entry)) await walk(child, path ? `${path}/${entry.name}` : entry.name, files);
  }
}

/** All files of a drop, with the folder each lies in. */
export async function droppedFiles(transfer) {
  // Entries must be taken before the first await: a drop is emptied after it.
  const roots = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const files = [];
  if (!roots.length) return chosenFiles(transfer.files);
  for (const root of roots) await walk(root, "", files);
  return files;
}

/** The files of an input. */
export function chosenFiles(list) {
  return [...list].filter((file) => !isClutter(file.name))
    .map((file) => ({ file, path: (file.webkitRelativePath ?? "").split("/").slice(0, -1).join("/") }));
}
