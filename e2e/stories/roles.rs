//! What people may do by Kubernetes' own roles, which the chart adds to.

use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::rbac::v1::{RoleBinding, RoleRef, Subject};
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use trireme_e2e::Lab;

/// A user of the namespace who has the role `role`, and is called so.
async fn bind(lab: &Lab, role: &str) {
    let group = "rbac.authorization.k8s.io";
    let binding = RoleBinding {
        metadata: ObjectMeta {
            name: Some(role.to_owned()),
            ..ObjectMeta::default()
        },
        role_ref: RoleRef {
            api_group: group.to_owned(),
            kind: "ClusterRole".to_owned(),
            name: role.to_owned(),
        },
        subjects: Some(vec![Subject {
            api_group: Some(group.to_owned()),
            kind: "User".to_owned(),
            name: role.to_owned(),
            namespace: None,
        }]),
    };
    lab.api().create(&PostParams::default(), &binding).await.unwrap();
}

/// Whether the API server would let `user` do it; `what` is `batchjobs` or a part of one.
async fn may(lab: &Lab, user: &str, verb: &str, what: &str) -> bool {
    let (resource, part) = what.split_once('/').unwrap_or((what, ""));
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(user.to_owned()),
            resource_attributes: Some(ResourceAttributes {
                namespace: Some(lab.namespace.clone()),
                verb: Some(verb.to_owned()),
                group: Some("trireme.dev".to_owned()),
                resource: Some(resource.to_owned()),
                subresource: Some(part.to_owned()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let reviews: Api<SubjectAccessReview> = Api::all(lab.client.clone());
    let review = reviews.create(&PostParams::default(), &review).await.unwrap();
    review.status.unwrap().allowed
}

#[tokio::test]
#[ignore = "needs a cluster: make e2e"]
async fn people_may_do_what_their_role_says_and_no_more() {
    let lab = Lab::open("roles").await;
    for role in ["view", "edit", "admin"] {
        bind(&lab, role).await;
        let known = async { while !may(&lab, role, "get", "batchjobs").await {} };
        lab.within("the role", known).await;
    }
    for (verb, what, users) in [
        ("list", "batchjobs", ["view", "edit", "admin"].as_slice()),
        ("watch", "batchjobs", &["view", "edit", "admin"]),
        ("get", "batchjobs/status", &["view", "edit", "admin"]),
        ("create", "batchjobs", &["edit", "admin"]),
        ("patch", "batchjobs", &["edit", "admin"]),
        ("delete", "batchjobs", &["edit", "admin"]),
        ("patch", "batchjobs/scale", &["edit", "admin"]),
        // The operator's memory is nobody else's to write.
        ("patch", "batchjobs/status", &[]),
        ("update", "batchjobs/status", &[]),
    ] {
        for role in ["view", "edit", "admin", "nobody"] {
            let allowed = may(&lab, role, verb, what).await;
            assert_eq!(allowed, users.contains(&role), "{role} may {verb} {what}: {allowed}");
        }
    }
    lab.close().await;
}
