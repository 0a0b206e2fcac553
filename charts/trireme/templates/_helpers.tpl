{{/* Names are cut so that the longest ending, "-operator-metrics", still fits into 63 characters. */}}
{{- define "trireme.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "trireme.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 46 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 46 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 46 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{/* The operator and all that is its own: Deployment, service account, roles, Lease. */}}
{{- define "trireme.operator" -}}
{{ include "trireme.fullname" . }}-operator
{{- end }}

{{- define "trireme.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "trireme.operator" .) .Values.serviceAccount.name }}
{{- else }}
{{- required "serviceAccount.name is required where serviceAccount.create is false" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* What selects the operator's pods, for ever. Pods of jobs bear the same name, and another component. */}}
{{- define "trireme.selectorLabels" -}}
app.kubernetes.io/name: {{ include "trireme.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "trireme.labels" -}}
{{ include "trireme.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: trireme
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* An image by its digest, or else by its tag. Takes a list: the image's values, the version. */}}
{{- define "trireme.image" -}}
{{- $image := index . 0 }}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ default (index . 1) $image.tag }}
{{- end }}
{{- end }}

{{/* The requests that the operator makes, and no others (operator/src/cluster/kubernetes.rs, operator/src/controller.rs). */}}
{{- define "trireme.rules" -}}
- apiGroups: [trireme.dev]
  resources: [batchjobs]
  verbs: [get, list, watch, delete] # delete: spec.ttlSecondsAfterFinished
- apiGroups: [trireme.dev]
  resources: [batchjobs/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, create, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [create, patch] # applied on the server's side
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, update] # the job's own, by its name; never a list of them
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get] # spec.sqlFrom.configMapKeyRef
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}
