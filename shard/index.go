package shard

import (
	"fmt"
	"strconv"
)

// indexNames are the variables in which engines give a task its number: Slurm's
// job arrays, Kubernetes' indexed Jobs, Cloud Run's jobs. Their counts are not
// asked: an array in which only failed tasks are run again reports fewer.
var indexNames = []string{"SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "CLOUD_RUN_TASK_INDEX"}

// IndexError says why a task does not know its number.
type IndexError struct{ What string }

func (e *IndexError) Error() string { return "task index: " + e.What }

// Index takes a task's number from the environment of the engine.
func Index(env func(string) string) (int, error) {
	index, from := -1, ""
	for _, name := range indexNames {
		text := env(name)
		if text == "" {
			continue
		}
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 || strconv.Itoa(n) != text {
			return 0, &IndexError{fmt.Sprintf("%s is %.40q, want a number from 0", name, text)}
		}
		if index >= 0 && n != index {
			return 0, &IndexError{fmt.Sprintf("%s is %d, and %s is %d", from, index, name, n)}
		}
		index, from = n, name
	}
	if index < 0 {
		return 0, &IndexError{"is not given, and none of SLURM_ARRAY_TASK_ID, JOB_COMPLETION_INDEX, CLOUD_RUN_TASK_INDEX is set"}
	}
	return index, nil
}
