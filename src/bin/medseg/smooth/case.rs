//! One case: read, build the net, write every surface.

use super::flags::{Format, Request};
use super::{Args, scene};
use crate::context::Context;
use anyhow::Context as _;
use medseg::io::atomic::{self, AtomicFile};
use medseg::io::batch::Case;
use medseg::io::nifti::Reader;
use medseg::io::{Overwrite, display_name, labels};
use medseg::mesh::write::{
    ObjStyle, Part, decimals_for, plain_name, write_glb, write_mtl, write_obj, write_ply, write_stl,
};
use medseg::mesh::{self, Options, Surface, SurfaceNet, SurfaceReport};
use medseg::provenance::{CaseRecord, InputFile, Status};
use medseg::report::picture::bodies::Scene;
use medseg::volume::{LabelMap, LabelTable};
use rayon::prelude::*;
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};

/// Name of the merged file and of the colours.
const MERGED: &str = "labels";

/// Where a case is written.
pub struct Places {
    /// Folder of the surfaces.
    pub folder: PathBuf,
    /// The picture, if one is wanted.
    pub preview: Option<PathBuf>,
}

/// Makes the surfaces of a case. Returns its record, and what was made unless it was skipped.
///
/// # Errors
/// Anything that prevents a surface from being written.
pub fn run(
    case: &Case,
    places: &Places,
    args: &Args,
    request: &Request,
    cx: &Context,
) -> anyhow::Result<(CaseRecord, Option<Value>)> {
    let [input] = case.channels.as_slice() else {
        anyhow::bail!("a label map is one file");
    };
    let map = read(input, request, cx)?;
    let shown = display_name(input);
    let mut options = request.options.clone();
    options.simplification = args.simplify.map(|amount| amount.on(map.grid()));
    if let Some(list) = &request.list {
        options.labels = Some(labels::parse_label_list(list, &map.table)?);
    }
    let folder = places.folder.as_path();
    let output = Output {
        folder,
        preview: places.preview.as_deref(),
        map: &map,
        args,
        comments: comments(input, args),
    };
    let mut record = CaseRecord::new(display_name(case.id.as_ref()), Status::Done);
    let files = output.planned(&options);
    if output.are_there_already(&files)? {
        cx.say(&format!("{}: exists, skipped", display_name(folder)));
        record.status = Status::Skipped;
        return Ok((record, None));
    }
    if args.dry_run {
        let shown = display_name(folder);
        cx.say(&format!("{shown}: {} files would be written", files.len()));
        return Ok((record, None));
    }
    let progress = cx.progress(&record.case);
    let net = SurfaceNet::build(&map, &options, &progress).with_context(|| shown.clone())?;
    drop(progress);
    if net.labels().len() == 0 {
        cx.warn(
            "empty",
            &format!("{shown}: no foreground, nothing to write"),
        );
    }
    atomic::create_folder(folder)?;
    let picture = output
        .preview
        .and_then(|_| scene::scene(&net, options.frame));
    let made = if args.merge {
        output.write_merged(&net, picture.as_ref())?
    } else {
        output.write_each(&net, picture.as_ref())?
    };
    let rows: Vec<Value> = made
        .iter()
        .map(|(row, files)| output.row(row, files))
        .collect();
    for (row, files) in &made {
        for warning in &row.warnings {
            cx.warn(
                "surface",
                &format!("{shown}: {} ({}): {warning}", row.name, row.label),
            );
        }
        record
            .outputs
            .extend(files.iter().map(|file| display_name(file)));
    }
    record.outputs.dedup();
    if let (Some(path), Some(picture)) = (output.preview, picture) {
        atomic::write(path, output.overwrite(), &picture.png().0)?;
        record.outputs.push(display_name(path));
    }
    cx.say(&format!(
        "{shown}: {} surfaces in {}",
        made.len(),
        display_name(folder)
    ));
    let is_reported = args.report.report.is_some();
    record.inputs.push(InputFile::named(input, is_reported)?);
    let line = json!({"case": record.case, "frame": format!("{:?}", args.frame).to_lowercase(), "unit": "mm", "labels": rows});
    Ok((record, Some(line)))
}

fn read(input: &Path, request: &Request, cx: &Context) -> anyhow::Result<LabelMap> {
    let reader = if input == Path::new("-") {
        Reader::from_reader(io::stdin(), "standard input", &cx.limits)?
    } else {
        cx.open(input)?
    };
    let voxels = reader.header().voxel_count();
    let least = mesh::least_bytes(voxels, &request.options.cleaning);
    cx.limits.check(&display_name(input), least)?;
    let table = match &request.table {
        Some(table) => table.clone(),
        None => labels::table_in_extensions(reader.extensions()).unwrap_or_default(),
    };
    let (map, header) = reader.into_label_map(table)?;
    for warning in &header.warnings {
        cx.warn("header", &format!("{}: {warning}", display_name(input)));
    }
    Ok(map)
}

/// Comment lines of the files. The input's name without its folders: where a file lies is nobody's business but its owner's.
fn comments(input: &Path, args: &Args) -> Vec<String> {
    let name = input.file_name().unwrap_or_default().to_string_lossy();
    let frame = format!("{:?}", args.frame).to_uppercase();
    vec![
        format!("medseg {} surface of {name}", env!("CARGO_PKG_VERSION")),
        format!("frame {frame}, unit mm"),
    ]
}

/// What was made of a label, and its files.
type Made = (SurfaceReport, Vec<PathBuf>);

/// The files of a case.
struct Output<'a> {
    folder: &'a Path,
    preview: Option<&'a Path>,
    map: &'a LabelMap,
    args: &'a Args,
    comments: Vec<String>,
}

impl Output<'_> {
    fn table(&self) -> &LabelTable {
        &self.map.table
    }

    /// `<label>_<name>`, or `label_<label>` for a label without a name.
    fn stem(&self, label: u16) -> String {
        match self.table().get(label) {
            Some(known) => format!("{label}_{}", plain_name(&known.name)),
            None => format!("label_{label}"),
        }
    }

    fn rgb(&self, label: u16) -> [u8; 3] {
        scene::rgb(self.table(), label)
    }

    fn files(&self, stem: &str) -> Vec<PathBuf> {
        let formats = self.args.format.iter();
        formats
            .map(|format| self.folder.join(format!("{stem}.{}", format.ending())))
            .collect()
    }

    fn colours(&self) -> PathBuf {
        self.folder.join(format!("{MERGED}.mtl"))
    }

    /// Every file to write.
    fn planned(&self, options: &Options) -> Vec<PathBuf> {
        let counts = self.map.counts();
        let wanted = |label: &u16| {
            *label != 0
                && options
                    .labels
                    .as_ref()
                    .is_none_or(|list| list.contains(label))
        };
        let stems: Vec<String> = if self.args.merge {
            vec![MERGED.to_owned()]
        } else {
            counts
                .iter()
                .map(|entry| entry.0)
                .filter(wanted)
                .map(|label| self.stem(label))
                .collect()
        };
        let mut files: Vec<PathBuf> = stems.iter().flat_map(|stem| self.files(stem)).collect();
        if self.args.format.contains(&Format::Obj) {
            files.push(self.colours());
        }
        files.extend(self.preview.map(Path::to_path_buf));
        files
    }

    /// Whether every file exists and is to be left alone.
    ///
    /// # Errors
    /// When one exists and may not be replaced.
    fn are_there_already(&self, files: &[PathBuf]) -> anyhow::Result<bool> {
        if self.args.existing.skip_existing {
            return Ok(!files.is_empty() && files.iter().all(|file| file.exists()));
        }
        if let Some(path) = self.preview.filter(|path| !path.starts_with(self.folder)) {
            atomic::check_output(path, self.args.existing.overwrite())?;
        }
        // A folder that is not there yet has nothing to replace.
        for file in files.iter().filter(|file| file.exists()) {
            atomic::check_output(file, self.args.existing.overwrite())?;
        }
        Ok(false)
    }

    /// One set of files per label, labels in parallel.
    fn write_each(&self, net: &SurfaceNet, picture: Option<&Scene>) -> anyhow::Result<Vec<Made>> {
        let labels: Vec<u16> = net.labels().collect();
        let mut made = net
            .labels_by_size()
            .into_iter()
            .par_bridge()
            .map(|label| {
                let surface = net.surface(label);
                let stem = self.stem(label);
                let files = self.files(&stem);
                let part = [self.part(&surface, &stem)];
                let (written, report) =
                    rayon::join(|| self.write(&files, &part), || net.report(&surface));
                written?;
                if let Some(picture) = picture {
                    scene::add(picture, &surface, self.table());
                }
                Ok((report, files))
            })
            .collect::<anyhow::Result<Vec<Made>>>()?;
        made.sort_by_key(|(report, _)| report.label);
        let nothing = Surface::default();
        let stems: Vec<String> = labels.iter().map(|&label| self.stem(label)).collect();
        let parts: Vec<Part> = labels
            .iter()
            .zip(&stems)
            .map(|(&label, name)| Part {
                surface: &nothing,
                name,
                rgb: self.rgb(label),
            })
            .collect();
        self.write_colours(&parts)?;
        Ok(made)
    }

    /// One set of files for all labels.
    fn write_merged(&self, net: &SurfaceNet, picture: Option<&Scene>) -> anyhow::Result<Vec<Made>> {
        let surfaces: Vec<Surface> = net.labels().map(|label| net.surface(label)).collect();
        if surfaces.is_empty() {
            return Ok(Vec::new());
        }
        let stems: Vec<String> = net.labels().map(|label| self.stem(label)).collect();
        let parts: Vec<Part> = surfaces
            .iter()
            .zip(&stems)
            .map(|(surface, stem)| self.part(surface, stem))
            .collect();
        let files = self.files(MERGED);
        self.write(&files, &parts)?;
        self.write_colours(&parts)?;
        if let Some(picture) = picture {
            surfaces
                .par_iter()
                .for_each(|surface| scene::add(picture, surface, self.table()));
        }
        Ok(surfaces
            .iter()
            .map(|surface| (net.report(surface), files.clone()))
            .collect())
    }

    fn part<'a>(&self, surface: &'a Surface, name: &'a str) -> Part<'a> {
        Part {
            surface,
            name,
            rgb: self.rgb(surface.label),
        }
    }

    fn overwrite(&self) -> Overwrite {
        // With --skip-existing a half finished case is done again.
        if self.args.existing.skip_existing {
            Overwrite::Force
        } else {
            self.args.existing.overwrite()
        }
    }

    fn write(&self, files: &[PathBuf], parts: &[Part]) -> anyhow::Result<()> {
        for (file, format) in files.iter().zip(&self.args.format) {
            self.write_file(file, |out| match format {
                Format::Obj => {
                    let style = ObjStyle {
                        decimals: decimals_for(self.map.grid().affine.column_norms_mm()),
                        comments: &self.comments,
                        material_file: Some("labels.mtl"),
                    };
                    write_obj(out, parts, &style)
                }
                Format::Stl => {
                    write_stl(out, parts, self.comments.first().map_or("", String::as_str))
                }
                Format::Ply => write_ply(out, parts, &self.comments),
                Format::Glb => write_glb(out, parts, self.args.frame.into()),
            })?;
        }
        Ok(())
    }

    fn write_colours(&self, parts: &[Part]) -> anyhow::Result<()> {
        if parts.is_empty() || !self.args.format.contains(&Format::Obj) {
            return Ok(());
        }
        self.write_file(&self.colours(), |out| write_mtl(out, parts))
    }

    fn write_file(
        &self,
        path: &Path,
        fill: impl FnOnce(&mut AtomicFile) -> io::Result<()>,
    ) -> anyhow::Result<()> {
        let mut file = AtomicFile::create(path, self.overwrite())?;
        fill(&mut file).with_context(|| format!("writing {}", display_name(path)))?;
        file.commit()?;
        Ok(())
    }

    fn row(&self, report: &SurfaceReport, files: &[PathBuf]) -> Value {
        let mut row = json!(report);
        row["rgb"] = json!(self.rgb(report.label));
        row["files"] = files.iter().map(|file| display_name(file)).collect();
        row
    }
}
