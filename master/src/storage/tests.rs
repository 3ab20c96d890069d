use super::upload::PART_BYTES;
use super::*;
use futures::StreamExt as _;

fn files(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        if entry.path().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found
}

#[tokio::test]
async fn an_upload_is_there_whole_or_not_at_all() {
    let folder = tempfile::tempdir().expect("a folder");
    let storage = Storage::open(&format!("file://{}", folder.path().display()), Vault::default()).expect("opens");
    for nonce in [1, 2] {
        let mut upload = storage.begin_upload(nonce).await.expect("begins");
        upload.write(Bytes::from_static(b"email\n")).await.expect("writes");
        upload.write(Bytes::from(vec![b'x'; PART_BYTES + 1])).await.expect("writes");
        assert_eq!(upload.size_bytes(), PART_BYTES as u64 + 7);
        let name = upload.finish().await.expect("finishes");
        assert!(storage.has_audience(&name).await.expect("looks"));
        assert_eq!(files(folder.path()), [name]);
    }
    let mut upload = storage.begin_upload(3).await.expect("begins");
    upload.write(Bytes::from(vec![b'y'; 2 * PART_BYTES])).await.expect("writes");
    upload.abort().await.expect("aborts");
    assert_eq!(files(folder.path()).len(), 1);
    let empty = storage.begin_upload(4).await.expect("begins").finish().await.expect("finishes");
    let mut bytes = storage.read_audience(&empty).await.expect("reads").expect("is there");
    assert!(bytes.next().await.is_none_or(|chunk| chunk.expect("readable").is_empty()));
}

#[test]
fn a_place_that_cannot_be_used_says_so() {
    for place in ["", "gs://bucket", "file://relative", "/proc/nothing/here"] {
        let error = Storage::open(place, Vault::default()).expect_err("refused").to_string();
        assert!(error.contains("[storage] url"), "{error}");
    }
}

#[cfg(feature = "encryption")]
mod sealed {
    use super::*;
    use crate::seal::{FRAME_BYTES, new_line};
    use std::os::unix::fs::PermissionsExt as _;

    fn vault(names: &[&str]) -> Vault {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let line = |name: &&str| new_line(&name.parse().expect("a name")).expect("this build seals");
        std::fs::write(file.path(), names.iter().map(line).collect::<Vec<_>>().join("\n")).expect("writes");
        std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(0o600)).expect("a mode");
        Vault::read(file.path()).expect("reads")
    }

    async fn store(storage: &Storage, bytes: &[u8], nonce: u128) -> String {
        let mut upload = storage.begin_upload(nonce).await.expect("begins");
        for chunk in bytes.chunks(100_001) {
            upload.write(Bytes::copy_from_slice(chunk)).await.expect("writes");
        }
        upload.finish().await.expect("finishes")
    }

    async fn read(storage: &Storage, name: &str) -> Result<Vec<u8>, StorageError> {
        let mut stream = storage.read_audience(name).await?.expect("is there");
        let mut bytes = Vec::new();
        while let Some(chunk) = stream.next().await {
            bytes.extend(chunk?);
        }
        Ok(bytes)
    }

    #[tokio::test]
    async fn audiences_of_every_length_are_sealed_and_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = Storage::open(&folder.path().display().to_string(), vault(&["a"])).expect("opens");
        let lengths = [0, 1, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, 3 * FRAME_BYTES, 70 * FRAME_BYTES + 5];
        for (length, nonce) in lengths.into_iter().zip(1..) {
            let bytes: Vec<u8> = (0..length).map(|at| b"ada@example.com\n"[at % 16]).collect();
            let name = store(&storage, &bytes, nonce).await;
            assert_eq!(read(&storage, &name).await.expect("reads"), bytes, "{length} bytes");
            let stored = std::fs::read(folder.path().join("audiences").join(&name)).expect("is there");
            assert!(!stored.windows(7).any(|part| part == b"example"), "nothing is there to be read");
        }
    }

    #[tokio::test]
    async fn a_cut_swapped_or_damaged_audience_is_refused_before_its_first_byte_or_where_it_is_damaged() {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = Storage::open(&folder.path().display().to_string(), vault(&["a"])).expect("opens");
        let (one, two) = (vec![b'1'; 2 * FRAME_BYTES], vec![b'2'; 2 * FRAME_BYTES]);
        let (first, second) = (store(&storage, &one, 1).await, store(&storage, &two, 2).await);
        let path = |name: &str| folder.path().join("audiences").join(name);
        let whole = std::fs::read(path(&first)).expect("is there");
        let frame = FRAME_BYTES + crate::seal::TAG_BYTES;
        let cut = |from: usize, to: usize| [&whole[..from], &whole[to..]].concat();
        let header = whole.len() - 2 * frame - crate::seal::TAG_BYTES;
        let swapped = std::fs::read(path(&second)).expect("is there");
        for bytes in [cut(header, header + frame), cut(whole.len() - 1, whole.len()), cut(header, whole.len()), swapped]
        {
            std::fs::write(path(&first), bytes).expect("writes");
            let error = storage.read_audience(&first).await.map(|_| ()).expect_err("refused at once");
            assert!(matches!(error, StorageError::Sealed(SealError::Damaged { .. })), "{error}");
        }
        let mut exchanged = whole.clone();
        exchanged[header..header + 2 * frame].rotate_left(frame);
        std::fs::write(path(&first), exchanged).expect("writes");
        assert!(read(&storage, &first).await.is_err(), "frames in another order");
    }

    #[tokio::test]
    async fn an_upload_anew_turns_an_audience_over_to_the_present_key() {
        let folder = tempfile::tempdir().expect("a folder");
        let place = folder.path().display().to_string();
        let plain = Storage::open(&place, Vault::default()).expect("opens");
        let name = store(&plain, b"email\nada@example.com\n", 1).await;
        let sealed = Storage::open(&place, vault(&["a"])).expect("opens");
        assert_eq!(read(&sealed, &name).await.expect("from before"), b"email\nada@example.com\n");
        assert_eq!(store(&sealed, b"email\nada@example.com\n", 2).await, name);
        assert!(
            matches!(plain.read_audience(&name).await.map(|_| ()), Err(StorageError::Sealed(error)) if error.is_about_keys())
        );
        let after = sealed.objects.head(&audience_path(&name)).await.expect("is there").last_modified;
        assert_eq!(store(&sealed, b"email\nada@example.com\n", 3).await, name);
        assert_eq!(
            sealed.objects.head(&audience_path(&name)).await.expect("is there").last_modified,
            after,
            "it stays"
        );
        assert_eq!(files(folder.path()).len(), 1);
        sealed.write_segment("abcd", b"x".to_vec()).await.expect("writes");
        assert_eq!(sealed.read_segment("abcd").await.expect("reads").expect("is there"), "x");
        assert!(plain.read_segment("abcd").await.is_err());
    }
}

#[tokio::test]
async fn marks_are_read_as_they_were_written_and_damage_is_no_empty_mark() {
    let folder = tempfile::tempdir().expect("a folder");
    let storage = Storage::open(&folder.path().display().to_string(), Vault::default()).expect("opens");
    assert_eq!(storage.read_marks().await.expect("reads"), Marks::default());
    let marks: Marks =
        [(3, 9), (4, 12)].map(|(epoch, sequence)| Mark { shard: 0, epoch, sequence }).into_iter().collect();
    storage.write_marks(&marks).await.expect("writes");
    assert_eq!(storage.read_marks().await.expect("reads"), marks);
    std::fs::write(folder.path().join(MARKS_PATH), "[{").expect("harms it");
    let error = storage.read_marks().await.expect_err("unreadable").to_string();
    assert!(error.contains("marks.json") && error.contains("remove it"), "{error}");
}
