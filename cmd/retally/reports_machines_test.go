package main

var reportsMachines = []reportCase{}
