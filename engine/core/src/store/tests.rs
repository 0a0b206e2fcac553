use std::fs;

use object_store::ObjectStoreExt;

use super::*;

const SECRET: &str = "hunter2-secret";

fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn mounted(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, content) in files {
        fs::write(dir.path().join(name), content).unwrap();
    }
    dir
}

fn from_files(dir: &tempfile::TempDir, options: S3Options) -> StoreFactory {
    StoreFactory::with_environment(Credentials::Files(dir.path().to_owned()), options, Vec::new())
}

#[tokio::test]
async fn a_local_file_is_reached_by_path_and_by_url() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a b.txt");
    fs::write(&path, "hello").unwrap();
    let factory = StoreFactory::with_environment(Credentials::CloudIdentity, S3Options::default(), Vec::new());

    let url = Url::from_file_path(&path).unwrap();
    for location in [
        factory.locate(path.to_str().unwrap()),
        factory.locate(url.as_str()),
        factory.store_for(&url),
    ] {
        let location = location.unwrap();
        let read = location
            .store
            .as_object_store()
            .get(&location.path)
            .await
            .unwrap()
            .bytes()
            .await
            .unwrap();
        assert_eq!(&read[..], b"hello");
        assert!(location.store.as_multipart().is_none());
    }

    let missing = factory.locate(dir.path().join("none").to_str().unwrap()).unwrap();
    let error = missing.store.as_object_store().get(&missing.path).await.unwrap_err();
    assert_eq!(StoreFault::of(&error), StoreFault::NotFound);
}

#[tokio::test]
async fn a_bucket_in_memory_is_one_store_with_multipart_uploads() {
    let factory = StoreFactory::with_environment(Credentials::CloudIdentity, S3Options::default(), Vec::new());
    let first = factory.locate("memory://scratch/a").unwrap();
    let uploads = first.store.as_multipart().unwrap();
    let id = uploads.create_multipart(&first.path).await.unwrap();
    let part = uploads.put_part(&first.path, &id, 0, "hello".into()).await.unwrap();
    uploads.complete_multipart(&first.path, &id, vec![part]).await.unwrap();

    let again = factory.locate("memory://scratch/a").unwrap();
    let read = again
        .store
        .as_object_store()
        .get(&again.path)
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    assert_eq!(&read[..], b"hello");
}

#[test]
fn secrets_show_in_no_output() {
    let files = [
        ("access-key-id", SECRET),
        ("secret-access-key", SECRET),
        ("session-token", SECRET),
    ];
    let dir = mounted(&files);
    let variables = environment(&[
        ("AWS_ACCESS_KEY_ID", SECRET),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_SESSION_TOKEN", SECRET),
    ]);
    let factories = [
        from_files(&dir, S3Options::default()),
        StoreFactory::with_environment(Credentials::Environment, S3Options::default(), variables),
    ];
    for factory in factories {
        let location = factory.locate("s3://bucket/path").unwrap();
        let shown = format!(
            "{factory:?} {location:?} {:?} {}",
            location.store,
            location.store.as_object_store()
        );
        assert!(shown.contains("bucket") && !shown.contains(SECRET), "{shown}");
    }
}

#[test]
fn only_a_local_run_reads_keys_from_the_environment() {
    let variables = environment(&[
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", "/var/run/token"),
        ("HOME", "/root"),
    ]);
    let read = |credentials| {
        let factory = StoreFactory::with_environment(credentials, S3Options::default(), variables.clone());
        factory.environment.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
    };
    assert_eq!(
        read(Credentials::Environment),
        ["AWS_SECRET_ACCESS_KEY", "AWS_WEB_IDENTITY_TOKEN_FILE"]
    );
    assert_eq!(read(Credentials::CloudIdentity), ["AWS_WEB_IDENTITY_TOKEN_FILE"]);
    assert!(read(Credentials::Files("/mounted".into())).is_empty());
}

#[tokio::test]
async fn mounted_keys_are_read_again_when_they_change() {
    use object_store::CredentialProvider;

    let dir = mounted(&[("access-key-id", "one\n"), ("secret-access-key", "s\n")]);
    let provider = credentials::MountedProvider::new(dir.path());
    assert_eq!(provider.get_credential().await.unwrap().key_id, "one");

    fs::write(dir.path().join("next"), "two\n").unwrap();
    fs::rename(dir.path().join("next"), dir.path().join("access-key-id")).unwrap();
    assert_eq!(provider.get_credential().await.unwrap().key_id, "two");

    fs::remove_file(dir.path().join("secret-access-key")).unwrap();
    let error = provider.get_credential().await.unwrap_err();
    assert_eq!(StoreFault::of(&error), StoreFault::Refused);
}

#[test]
fn incomplete_credentials_name_the_file() {
    for (files, named) in [
        (vec![("secret-access-key", "s")], "access-key-id"),
        (
            vec![("access-key-id", "a"), ("secret-access-key", "\n")],
            "secret-access-key",
        ),
    ] {
        let dir = mounted(&files);
        let error = from_files(&dir, S3Options::default())
            .locate("s3://bucket/a")
            .unwrap_err();
        let StoreError::Credentials { source, .. } = error else {
            panic!("{error}")
        };
        assert!(source.to_string().contains(named), "{source}");
    }
}

#[test]
fn data_in_the_clear_must_be_permitted() {
    let dir = mounted(&[
        ("access-key-id", "a"),
        ("secret-access-key", "s"),
        ("endpoint", "http://store:9000"),
    ]);
    let refused = from_files(&dir, S3Options::default())
        .locate("s3://bucket/a")
        .unwrap_err();
    assert!(matches!(refused, StoreError::Plaintext { .. }), "{refused}");
    from_files(
        &dir,
        S3Options {
            allow_http: true,
            ..S3Options::default()
        },
    )
    .locate("s3://bucket/a")
    .unwrap();

    std::fs::write(dir.path().join("allow-http"), "true\n").unwrap();
    from_files(&dir, S3Options::default()).locate("s3://bucket/a").unwrap();

    let variables = environment(&[("AWS_ENDPOINT_URL_S3", "http://store:9000"), ("AWS_ALLOW_HTTP", "true")]);
    let factory = StoreFactory::with_environment(Credentials::Environment, S3Options::default(), variables);
    factory.locate("s3://bucket/a").unwrap();
}

#[tokio::test]
async fn a_store_that_is_not_there_is_unreachable() {
    // A port that was free a moment ago refuses connections at once.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let error = s3_error(&format!("http://127.0.0.1:{port}")).await;
    assert_eq!(StoreFault::of(&error), StoreFault::Unreachable, "{error}");
}

/// One request without retries, so that the test does not wait out our patience.
async fn s3_error(endpoint: &str) -> object_store::Error {
    let store = object_store::aws::AmazonS3Builder::new()
        .with_bucket_name("bucket")
        .with_endpoint(endpoint)
        .with_allow_http(true)
        .with_access_key_id("a")
        .with_secret_access_key("s")
        .with_retry(object_store::RetryConfig {
            max_retries: 0,
            ..Default::default()
        })
        .build()
        .unwrap();
    store.get(&Path::from("a")).await.unwrap_err()
}
