//! The splits of a data set, in the Parquet files that the hub makes: `CONFIG/SPLIT/0000.parquet` and so on, in the
//! branch `refs/convert/parquet`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;

use super::{
    cache::RepositoryCache,
    client::Client,
    error::HubError,
    id::{HubId, is_safe_path},
    progress::Watch,
    snapshot::{Snapshot, listing},
};

/// Splits of a data set.
#[derive(Clone, Copy, Debug)]
pub struct DatasetRequest<'a> {
    /// The data set.
    pub id: &'a HubId,
    /// Its configuration; needed if it has several.
    pub config: Option<&'a str>,
    /// Its splits.
    pub splits: &'a [&'a str],
}

/// Splits of a data set that are in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchedDataset {
    /// The data set, at the commit that it is.
    pub id: HubId,
    /// The configuration.
    pub config: String,
    /// The files of each split, in order. They are part of the cache and not to be written to.
    pub files: BTreeMap<String, Vec<PathBuf>>,
}

/// The name of a file of a split.
fn shard(config: &str, split: &str, number: usize) -> String {
    format!("{config}/{split}/{number:04}.parquet")
}

/// What the cache has of a request, by the commit that its revision was last seen at.
///
/// # Errors
/// What the cache has or lacks, in words.
pub(super) fn cached(cache: &RepositoryCache, request: &DatasetRequest<'_>) -> Result<FetchedDataset, String> {
    let commit = cache.commit_of(request.id).ok_or_else(|| "does not have it".to_owned())?;
    let config = match request.config {
        Some(config) => config.to_owned(),
        None => only_folder(cache, &commit)?,
    };
    let files = request.splits.iter().map(|split| {
        let files = (0..).map_while(|number| cache.file(&commit, &shard(&config, split, number))).collect::<Vec<_>>();
        // Another program may have brought a part; where the split ends was noted when the last file had come.
        let next = shard(&config, split, files.len());
        match cache.is_absent(&commit, &next) && !files.is_empty() {
            true => Ok(((*split).to_owned(), files)),
            false => Err(format!("has no {next} of its commit {commit}")),
        }
    });
    Ok(FetchedDataset { files: files.collect::<Result<_, _>>()?, id: request.id.at(&commit), config })
}

/// The one configuration of which the cache has something.
fn only_folder(cache: &RepositoryCache, commit: &str) -> Result<String, String> {
    let entries = fs::read_dir(cache.snapshot(commit)).into_iter().flatten().flatten();
    let folders: Vec<String> = entries
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    match folders.as_slice() {
        [folder] => Ok(folder.clone()),
        [] => Err(format!("has nothing of its commit {commit}")),
        _ => Err(format!("has several configurations, of which one has to be named: {}", folders.join(", "))),
    }
}

/// Asks the hub where the revision is, and brings what the cache lacks of that commit.
pub(super) fn download(
    client: &Client,
    cache: &RepositoryCache,
    request: &DatasetRequest<'_>,
    watch: &mut Watch<'_>,
) -> Result<FetchedDataset, HubError> {
    let id = request.id;
    let listing = listing(client, id, watch)?;
    let names: Vec<&str> = listing.siblings.iter().map(|file| file.rfilename.as_str()).collect();
    let contents = Contents::of(&names);
    let (config, splits) = contents.configuration(id, request.config)?;
    let snapshot = Snapshot { cache, id, commit: &listing.sha };
    let mut files = BTreeMap::new();
    for &split in request.splits {
        let count = *splits.get(split).ok_or_else(|| HubError::NoSplit {
            id: id.clone(),
            configuration: config.to_owned(),
            wanted: split.to_owned(),
            available: splits.keys().map(|&split| split.to_owned()).collect(),
        })?;
        let paths = (0..count).map(|number| {
            let name = shard(config, split, number);
            if !is_safe_path(&name) {
                return Err(HubError::UnsafeName { id: id.clone(), name });
            }
            snapshot.fetch(client, &name, watch)?;
            Ok(cache.snapshot(&listing.sha).join(name))
        });
        files.insert(split.to_owned(), paths.collect::<Result<_, _>>()?);
        cache.note_absent(&listing.sha, &shard(config, split, count))?;
    }
    if id.commit().is_none() {
        cache.set_commit(id.revision(), &listing.sha)?;
    }
    Ok(FetchedDataset { id: id.at(&listing.sha), config: config.to_owned(), files })
}

/// How many files each split of each configuration has.
struct Contents<'a>(BTreeMap<&'a str, BTreeMap<&'a str, usize>>);

impl<'a> Contents<'a> {
    fn of(names: &[&'a str]) -> Self {
        let known: BTreeSet<&str> = names.iter().copied().collect();
        let mut contents: BTreeMap<_, BTreeMap<_, usize>> = BTreeMap::new();
        for name in names {
            let mut parts = name.split('/');
            if let (Some(config), Some(split), Some("0000.parquet"), None) =
                (parts.next(), parts.next(), parts.next(), parts.next())
            {
                let count = (0..).take_while(|&number| known.contains(shard(config, split, number).as_str())).count();
                contents.entry(config).or_default().insert(split, count);
            }
        }
        Self(contents)
    }

    /// The configuration that is wanted, or the only one.
    fn configuration(
        &self,
        id: &HubId,
        wanted: Option<&str>,
    ) -> Result<(&'a str, &BTreeMap<&'a str, usize>), HubError> {
        let found = match wanted {
            Some(wanted) => self.0.get_key_value(wanted),
            None if self.0.len() == 1 => self.0.first_key_value(),
            None => None,
        };
        found.map(|(config, splits)| (*config, splits)).ok_or_else(|| HubError::NoConfiguration {
            id: id.clone(),
            wanted: wanted.map(str::to_owned),
            available: self.0.keys().map(|&config| config.to_owned()).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_listing_has() {
        let names = [
            "README.md",
            "cola/test/0000.parquet",
            "sst2/train/0000.parquet",
            "sst2/train/0001.parquet",
            "sst2/partial-test/0000.parquet",
            "sst2/train/0003.parquet",
            "0000.parquet",
            "x/y/z/0000.parquet",
        ];
        let contents = Contents::of(&names);
        let id = HubId::dataset("org/name").unwrap();
        let (config, splits) = contents.configuration(&id, Some("sst2")).unwrap();
        assert_eq!(config, "sst2");
        assert_eq!(
            splits.iter().map(|(&split, &count)| (split, count)).collect::<Vec<_>>(),
            [("partial-test", 1), ("train", 2)]
        );
        let several = contents.configuration(&id, None).unwrap_err().to_string();
        assert!(several.ends_with("name one, as hf://datasets/org/name/cola; it has cola, sst2"), "{several}");
        let unknown = contents.configuration(&id, Some("sst")).unwrap_err().to_string();
        assert!(unknown.contains("no configuration \"sst\"; it has cola, sst2"), "{unknown}");
        assert_eq!(Contents::of(&names[..2]).configuration(&id, None).unwrap().0, "cola");
    }
}
